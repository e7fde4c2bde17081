"""Which folders of this repository a stage's code is made of, read from its import statements (also those inside
functions). `python -m tests.helpers.imports` writes them into dvc.yaml as each stage's code deps."""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("prunelab", "stages")
# What they import only refuses bad settings; the values themselves are params of the stage. Without this stop a new
# pruning method (a row in recipes/methods.py) would fetch and train everything again.
NOT_FOLLOWED = ("prunelab/study", "prunelab/checks")


def code_of(stage: str) -> set[str]:
    """The stage's own file and the folders of prunelab/ (or its single files) that it imports, from the root."""
    pending, seen = [f"stages/{stage}.py"], set()
    while pending:
        path = pending.pop()
        if path not in seen and not path.startswith(NOT_FOLLOWED):
            seen.add(path)
            pending += imported(path)
    return {folder_of(path) for path in seen}


def folder_of(path: str) -> str:
    """`prunelab/models/tensors.py` → `prunelab/models`; a file that lies in no folder of prunelab/ is its own."""
    parts = path.split("/")
    return "/".join(parts[:2])


def imported(path: str) -> list[str]:
    """The modules of this repository that the file at `path` imports."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            file = Path(*name.split(".")).with_suffix(".py")
            if name.split(".")[0] in PACKAGES and (ROOT / file).exists():
                found.append(file.as_posix())
    return found


def listed(text: str) -> str:
    """The dvc.yaml `text` with the code deps of every stage, which end its list, replaced by what its imports say."""
    modules = iter(re.findall(r"python -m stages\.(\w+)", text.partition("\nstages:\n")[2]))

    def line(match: re.Match) -> str:
        code = sorted(code_of(next(modules)), key=lambda path: (not path.startswith("stages/"), path))
        width = 118 - len(match[1])
        return "\n" + textwrap.indent("\n".join(textwrap.wrap(", ".join(code), width)), match[1]) + "]"

    head, stages, rest = text.partition("\nstages:\n")
    return head + stages + re.sub(r"\n( +)(?:CODE|stages/\w+\.py[^\]]*)\]", line, rest)


if __name__ == "__main__":
    dvc = ROOT / "dvc.yaml"
    dvc.write_text(listed(dvc.read_text(encoding="utf-8")), encoding="utf-8")
