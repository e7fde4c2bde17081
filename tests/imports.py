"""Which files of this repository a stage's code is made of, read from its import statements (also those inside
functions). `python -m tests.imports` prints the code deps that dvc.yaml should list."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("prunelab", "stages")
# What it imports only validates names; the values themselves are params of the stage. Without this stop a new pruning
# method (a row in methods.py) would fetch and train everything again.
NOT_FOLLOWED = {"prunelab/params.py"}


def code_of(stage: str) -> set[str]:
    """Paths, relative to the repository, of all modules that `stages.<stage>` imports, itself included."""
    pending, seen = [f"stages/{stage}.py"], set()
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            pending += _imported(path) if path not in NOT_FOLLOWED else []
    return seen


def _imported(path: str) -> list[str]:
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


def stages() -> list[str]:
    return sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")


if __name__ == "__main__":
    for stage in stages():
        print(f"{stage}:\n  - " + "\n  - ".join(sorted(code_of(stage), key=lambda p: (p.split("/")[0] != "stages", p))))
