"""How long a stage takes from process start to its own work, against a bare import of what it must have; and how long
`prunelab --help` takes (target: 0.3 s on a quiet machine).

    python -m benchmarks.startup [--rounds 5]

Each round starts both processes once, in alternating order; printed is the median of the rounds' ratios (target: 1.3).
What a stage must have stands in MUST: the libraries without which its work cannot be done for the default study.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = "import torch, safetensors; from transformers import GPT2LMHeadModel"
SCORING = "from prunelab.models import checkpoint; from prunelab.quality import quality, reference; "
HELP = "from prunelab.command import line; line.main(['--help'])"
# stage → (what it must have, what it really imports before its work begins)
MUST = {
    "device": ("import json", "import stages.device"),
    "fetch": ("import pydantic, ruamel.yaml", "import stages.fetch"),
    "train": (MODEL + ", Trainer", "import stages.train; from prunelab.training import training; " + MODEL),
    "reference": (MODEL, "import stages.reference; " + SCORING + MODEL),
    "prune": ("import torch, safetensors.torch", "import stages.prune"),
    "quality": (MODEL, "import stages.quality; " + SCORING + MODEL),
    "efficiency": (MODEL, "import stages.efficiency; from prunelab.efficiency import session; " + MODEL),
    "report": (
        "import pandas, matplotlib.pyplot, jinja2",
        "import stages.report; from prunelab.report import page, plots",
    ),
}
# Nobody should pay for these but the stage that draws, the mirror and the flow.
UNWANTED = ("mlflow", "prefect", "matplotlib", "plotly")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    start(HELP)
    seconds = statistics.median(start(HELP) for _ in range(arguments.rounds))
    print(json.dumps({"command": "prunelab --help", "seconds": round(seconds, 2)}), flush=True)
    for stage, (must, own) in MUST.items():
        start(must), start(own)  # warm the file cache
        ratios, seconds = [], []
        for number in range(arguments.rounds):
            times = {}
            for code in (must, own) if number % 2 else (own, must):
                times[code] = start(code)
            ratios.append(times[own] / times[must])
            seconds.append(times[own])
        print(json.dumps({"stage": stage, "ratio": round(statistics.median(ratios), 2),
                          "seconds": round(statistics.median(seconds), 2),
                          "unwanted": unwanted(stage, own)}), flush=True)  # fmt: skip


def start(code: str) -> float:
    """Seconds that a fresh Python takes to run `code`."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - begin


def unwanted(stage: str, code: str) -> list[str]:
    """Modules that `code` imported although its stage has no use for them."""
    check = f"{code}\nimport json, sys; print(json.dumps([m for m in {UNWANTED} if m in sys.modules]))"
    printed = subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [] if stage == "report" else json.loads(printed.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
