"""Which folders of this repository a stage's code is made of, read from its import statements (also those inside
functions). `python -m tests.helpers.imports` writes them into dvc.yaml as each stage's code deps.

A stage asks its study's task, which is not imported by name: what it asks (`task.start(…)`) is followed into that
function of every task there is, and no further, so that training doesn't hang on how a task judges.
"""

import ast
import re
import textwrap
from pathlib import Path

from prunelab import tasks

ROOT = Path(__file__).parents[2]
PACKAGES = ("prunelab", "stages")
# What they import only refuses bad settings; the values themselves are params of the stage. Without this stop a new
# pruning method (a row in recipes/methods.py) would fetch and train everything again.
NOT_FOLLOWED = ("prunelab/study", "prunelab/checks")
TASKS = "prunelab/tasks"
ANY_TASK = f"{TASKS}/${{task}}"  # as dvc.yaml says it


def settings_of(stage: dict) -> list[str]:
    """The settings that a stage of dvc.yaml depends on; a list that stages share stands there behind `params.yaml:`."""
    told = stage.get("params", [])
    return [name for one in told for name in (one["params.yaml"] if isinstance(one, dict) else [one])]


def code_of(stage: str, names=tasks.NAMES) -> set[str]:
    """The stage's own file and the folders of prunelab/ (or its single files) that it imports, from the root, for
    studies of the tasks `names`."""
    pending, seen = [f"stages/{stage}.py"], set()
    asked: set[str] = set()
    while pending:
        path = pending.pop()
        if path in seen or path.startswith(NOT_FOLLOWED):
            continue
        seen.add(path)
        tree = parsed(path)
        pending += imported(tree)
        for function in asks(tree) - asked:
            asked.add(function)
            for name in names:
                pending += imported(function_of(f"{TASKS}/{name}/__init__.py", function))
    return {folder_of(path) for path in seen} | ({ANY_TASK} if asked else set())


def folder_of(path: str) -> str:
    """`prunelab/models/tensors.py` → `prunelab/models`; a file that lies in no folder of prunelab/ is its own.

    Any task's is `prunelab/tasks/${task}`; what lies above all of them is itself.
    """
    parts = path.split("/")
    if path.startswith(f"{TASKS}/"):
        return path if len(parts) == 3 else ANY_TASK
    return "/".join(parts[:2])


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> list[str]:
    """The modules of this repository that code imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            file = Path(*name.split(".")).with_suffix(".py")
            if name == "prunelab.tasks":  # the one package that holds more than its modules
                found.append(f"{TASKS}/__init__.py")
            elif name.split(".")[0] in PACKAGES and (ROOT / file).exists():
                found.append(file.as_posix())
    return found


def asks(tree: ast.AST) -> set[str]:
    """What code asks of the task that it was given: `samples` for `task.samples(…)`, `given.task.samples(…)`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in tasks.CONTRACT and _is_task(node.value)
    }


def _is_task(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):  # tasks.of(…)
        return isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "tasks.of"
    return (node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")) == "task"


def function_of(path: str, name: str) -> ast.AST:
    """The function (or constant) `name` in the file at `path`."""
    for node in parsed(path).body:
        if getattr(node, "name", None) == name:
            return node
    return ast.Module([], [])


def listed(text: str) -> str:
    """The dvc.yaml `text` with the code deps of every stage, which end its list, replaced by what its imports say."""
    modules = iter(re.findall(r"python -m stages\.(\w+)", text.partition("\nstages:\n")[2]))

    def line(match: re.Match) -> str:
        code = sorted(code_of(next(modules)), key=lambda path: (not path.startswith("stages/"), path))
        quoted = [f'"{path}"' if "$" in path else path for path in code]
        width = 118 - len(match[1])
        return "\n" + textwrap.indent("\n".join(textwrap.wrap(", ".join(quoted), width)), match[1]) + "]"

    head, stages, rest = text.partition("\nstages:\n")
    return head + stages + re.sub(r"\n( +)(?:CODE|stages/\w+\.py[^\]]*)\]", line, rest)


if __name__ == "__main__":
    dvc = ROOT / "dvc.yaml"
    dvc.write_text(listed(dvc.read_text(encoding="utf-8")), encoding="utf-8")
