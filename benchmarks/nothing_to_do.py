"""What a study with nothing to do costs, against DVC's own time for the same graph with trivial commands.

    python -m benchmarks.nothing_to_do [--study smoke] [--rounds 7]

Two copies of the graph: one whose commands are this project's own probes and placeholders for the rest (they do
not run), one where every command is trivial. Both are brought up to date once; then, in alternating order, `make
study`'s command and `dvc repro` run in the first and `dvc repro` in the second. Printed: seconds and the medians of the
rounds' ratios (target: 1.3).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from tests.helpers import toy, workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="smoke")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = with_placeholders(Path(folder) / "own", arguments.study, keep=("device", "inputs"))
        trivial = with_placeholders(Path(folder) / "trivial", arguments.study, keep=())
        commands = {
            "study": (own, [sys.executable, "-m", "flows.local"]),
            "own": (own, ["dvc", "repro"]),
            "trivial": (trivial, ["dvc", "repro"]),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(arguments.rounds):
            for name in list(commands)[:: 1 if number % 2 else -1]:
                clone, command = commands[name]
                begin = time.perf_counter()
                said = workspace.run(clone, *command)
                times[name].append(time.perf_counter() - begin)
                if name == "study":
                    assert said.startswith("nothing to do"), said
        stages = len(workspace.run(own, "dvc", "stage", "list", "--name-only").split())
    figures = {f"{name}_s": round(statistics.median(taken), 2) for name, taken in times.items()}
    for name in ("study", "own"):
        ratios = [a / b for a, b in zip(times[name], times["trivial"], strict=True)]
        figures[f"{name}_ratio"] = round(statistics.median(ratios), 3)
    print(json.dumps({"stages": stages, **figures}))


def with_placeholders(folder: Path, study: str, keep: tuple[str, ...]) -> Path:
    """A workspace whose stages, but for those in `keep`, only touch their outputs; brought up to date."""
    folder.mkdir()
    workspace.make(folder, study)
    (folder / "placeholder.csv").write_text(toy.TABLE)  # the table that `make study` prints must be one
    yaml = YAML()
    graph = yaml.load(folder / "dvc.yaml")
    for name, stage in graph["stages"].items():
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
        if name not in keep:
            made = " && ".join(f"mkdir -p $(dirname {out}) && cp placeholder.csv {out}" for out in outs)
            stage["cmd"] = made or "true"
    yaml.dump(graph, folder / "dvc.yaml")
    workspace.run(folder, "dvc", "repro")
    return folder


if __name__ == "__main__":
    main()
