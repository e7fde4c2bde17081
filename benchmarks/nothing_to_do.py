"""What a study with nothing to do costs, against DVC's own time for the same graph with trivial commands.

    python -m benchmarks.nothing_to_do [--study smoke] [--rounds 7]

Two copies of the graph: one whose commands are this project's own device probe and placeholders for the rest (they do
not run), one where every command is trivial. Both are brought up to date once; then `dvc repro` runs in both in
alternating order. Printed: seconds and the median of the rounds' ratios (target: 1.3).
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from tests.helpers import workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="smoke")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = with_placeholders(Path(folder) / "own", arguments.study, keep=("device",))
        trivial = with_placeholders(Path(folder) / "trivial", arguments.study, keep=())
        times = {own: [], trivial: []}
        for number in range(arguments.rounds):
            for clone in (own, trivial) if number % 2 else (trivial, own):
                begin = time.perf_counter()
                workspace.run(clone, "dvc", "repro")
                times[clone].append(time.perf_counter() - begin)
        stages = len(workspace.run(own, "dvc", "stage", "list", "--name-only").split())
    ratios = [a / b for a, b in zip(times[own], times[trivial], strict=True)]
    print(json.dumps({"stages": stages, "own_s": round(statistics.median(times[own]), 2),
                      "trivial_s": round(statistics.median(times[trivial]), 2),
                      "ratio": round(statistics.median(ratios), 3)}))  # fmt: skip


def with_placeholders(folder: Path, study: str, keep: tuple[str, ...]) -> Path:
    """A workspace whose stages, but for those in `keep`, only touch their outputs; brought up to date."""
    folder.mkdir()
    workspace.make(folder, study)
    yaml = YAML()
    graph = yaml.load(folder / "dvc.yaml")
    for name, stage in graph["stages"].items():
        body = stage.get("do", stage)
        outs = [out if isinstance(out, str) else next(iter(out)) for out in body.get("outs", [])]
        if name not in keep:
            made = " && ".join(f"mkdir -p $(dirname {out}) && echo {out} > {out}" for out in outs)
            body["cmd"] = made or "true"
    yaml.dump(graph, folder / "dvc.yaml")
    # A placeholder writes files where real stages write folders, so what lies inside a folder is no dependency here.
    text = (folder / "dvc.yaml").read_text().replace("data/fetched/text/manifest.json", "data/fetched")
    (folder / "dvc.yaml").write_text(text)
    workspace.run(folder, "dvc", "repro")
    return folder


if __name__ == "__main__":
    main()
