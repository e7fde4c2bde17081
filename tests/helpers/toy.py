"""A toy pipeline with the real one's shape (a probe, a matrix, measuring stages, a report) for tests of what runs it.

Its stages are `stage.sh NAME SECONDS OUTPUT`: they note when they start and end in events.log and print a line. Where a
file `meet-NAME` is, the stage waits a minute for the one that is named there to have started, too; where `fail-NAME`
is, it breaks.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STAGE = """\
echo "start $1 $$ $(date +%s.%N)" >> events.log
echo "this is $1"
if [ -e "meet-$1" ]; then
  for turn in $(seq 600); do grep -q "^start $(cat "meet-$1") " events.log && break; sleep 0.1; done
fi
sleep $2
[ -e "fail-$1" ] && echo "about to break" && echo "broken on purpose" >&2 && exit 3
mkdir -p "$(dirname $3)"
echo "$1" > $3
echo "end $1 $$ $(date +%s.%N)" >> events.log
"""

PIPELINE = """\
stages:
  device:
    cmd: sh stage.sh device 0 device.json
    outs: [device.json]
    always_changed: true
  fetch:
    cmd: sh stage.sh fetch 0 data/text
    params: [fetch.split.seed]
    outs: [data/text]
  train:
    cmd: sh stage.sh train {train_seconds} models/dense
    deps: [data/text]
    params: [train.epochs]
    outs: [models/dense]
  prune:
    matrix: {{method: "${{prune.methods}}", rate: "${{prune.rates}}"}}
    cmd: sh stage.sh prune@${{item.method}}-${{item.rate}} {prune_seconds} models/${{item.method}}-${{item.rate}}
    deps: [models/dense]
    outs: ["models/${{item.method}}-${{item.rate}}"]
  efficiency:
    matrix: {{method: "${{prune.methods}}", rate: "${{prune.rates}}"}}
    cmd: sh stage.sh efficiency@${{item.method}}-${{item.rate}} 0.2 results/${{item.method}}-${{item.rate}}
    deps: ["models/${{item.method}}-${{item.rate}}", device.json]
    outs: ["results/${{item.method}}-${{item.rate}}"]
  report:
    cmd:
      - sh stage.sh report 0 report/index.html
      - cp table.csv report/results.csv
      - echo '{{}}' > report/metrics.json
    deps: [results/random-50, results/random-80, results/magnitude-50, results/magnitude-80, table.csv]
    outs: [report]
  mirror:
    cmd: sh stage.sh mirror 0 /dev/null
    deps: [report]
    always_changed: true
"""

# With an axis of seeds and the real probe of the machine, for what is shared out to workers.
SEEDED = """\
stages:
  device:
    cmd: python -m stages.device --out results/device.json
    outs: [results/device.json]
    params: [efficiency.device]
    always_changed: true
  fetch:
    cmd: sh stage.sh fetch 0 data/text
    params: [fetch.split.seed]
    outs: [data/text]
  train:
    foreach: ${seeds}
    do:
      cmd: sh stage.sh train@${item} 0 models/${item}/dense
      deps: [data/text]
      params: [train.epochs]
      outs: ["models/${item}/dense"]
  prune:
    matrix: {method: "${prune.methods}", rate: "${prune.rates}", seed: "${seeds}"}
    cmd: >-
      sh stage.sh prune@${item.method}-${item.rate}-${item.seed} 0
      models/${item.seed}/${item.method}-${item.rate}
    deps: ["models/${item.seed}/dense"]
    outs: ["models/${item.seed}/${item.method}-${item.rate}"]
  quality:
    matrix: {method: "${prune.methods}", rate: "${prune.rates}", seed: "${seeds}"}
    cmd: >-
      sh stage.sh quality@${item.method}-${item.rate}-${item.seed} 0
      results/${item.seed}/${item.method}-${item.rate}/quality
    deps: ["models/${item.seed}/${item.method}-${item.rate}"]
    outs: ["results/${item.seed}/${item.method}-${item.rate}/quality"]
  efficiency:
    matrix: {method: "${efficiency.methods}", rate: "${prune.rates}", seed: "${seeds}"}
    cmd: >-
      sh stage.sh efficiency@${item.method}-${item.rate}-${item.seed} 0
      results/${item.seed}/${item.method}-${item.rate}/time
    deps: ["models/${item.seed}/${item.method}-${item.rate}", results/device.json]
    outs: ["results/${item.seed}/${item.method}-${item.rate}/time"]
  report:
    cmd:
      - sh stage.sh report 0 report/index.html
      - cp table.csv report/results.csv
    deps: [models, results, table.csv]
    outs: [report]
  mirror:
    cmd: sh stage.sh mirror 0 /dev/null
    deps: [report]
    always_changed: true
"""

TABLE = """\
variant,method,rate,seed,dense,sparsity_pruned,loss,path
dense,dense,,1337,s1/dense,0.0,1.5,s1/dense
random-50,random,50,1337,s1/dense,0.5,3.0,s1/random-50
random-80,random,80,1337,s1/dense,0.8,4.0,s1/random-80
magnitude-50,magnitude,50,1337,s1/dense,0.5,1.7,s1/magnitude-50
magnitude-80,magnitude,80,1337,s1/dense,0.8,2.5,s1/magnitude-80
"""


def edit_params(folder: Path, **sections: dict) -> None:
    """Change settings in the folder's params.yaml: `edit_params(folder, train={"epochs": 3})`."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    raw = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    for section, values in sections.items():
        raw[section] |= values
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(raw, file)


def make(folder: Path, train_seconds: float = 0, prune_seconds: float = 0) -> Path:
    """A git repository with DVC, the toy pipeline, and a valid params.yaml with 2 methods x 2 rates."""
    (folder / "stage.sh").write_text(STAGE)
    (folder / "dvc.yaml").write_text(PIPELINE.format(train_seconds=train_seconds, prune_seconds=prune_seconds))
    (folder / "table.csv").write_text(TABLE)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    edit_params(folder, prune={"methods": ["random", "magnitude"], "rates": [50, 80], "further": []})
    (folder / "studies").mkdir()
    (folder / "studies" / "default.yaml").write_bytes((folder / "params.yaml").read_bytes())
    (folder / "studies" / "small.yaml").write_text("# As the default.\n")
    (folder / ".gitignore").write_text("/events.log\n/.prunelab/\n/fail-*\n")
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "toy"],
    ):
        subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return folder


def environment(**more: str) -> dict[str, str]:
    """For a command in the toy's folder: our modules importable, no MLflow server named, no telemetry."""
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return {**own, **quiet, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy pipeline in a temporary folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return make(tmp_path)


def started(folder: Path) -> list[str]:
    """The stages that have begun there, each time that they did."""
    file = folder / "events.log"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.split()[1] for line in lines if line.startswith("start ")]


def events(folder: Path) -> dict[str, tuple[float, float]]:
    """Stage → (start, end) in seconds of the last time it ran; the end of one that did not finish is infinite."""
    seen: dict[str, tuple[float, float]] = {}
    for line in (folder / "events.log").read_text().splitlines():
        kind, name, _, at = line.split()
        seen[name] = (float(at), float("inf")) if kind == "start" else (seen[name][0], float(at))
    return seen
