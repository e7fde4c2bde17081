"""Does a model trained here come out as nanoGPT's own? Its CPU preset on tiny-Shakespeare, through the real stages.

    python -m benchmarks.nanogpt_preset --text tinyshakespeare.txt

nanoGPT publishes 1.88 nats a character for this preset (4 layers, 4 heads, 128 wide, context 64, batch 12, 2000 steps,
no dropout; the first 90 % of the text train, the rest validates). The text is fetched through the local-path source and
split by position; the whole validation text is scored. Prints one JSON line at the end.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PUBLISHED = 1.88


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="tiny-Shakespeare, 1,115,394 bytes")
    parser.add_argument("--seed", type=int, default=1337)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_params(Path(folder), arguments.text.resolve(), arguments.seed)
        for stage, *options in (
            ("fetch", "--out", "data/fetched"),
            ("train", "--data", "data/fetched", "--out", "models/s1/dense"),
        ):
            command = [sys.executable, "-m", f"stages.{stage}", *options]
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        with open(Path(folder) / "models/s1/dense/history/curve.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    loss = float(rows[-1]["validation_loss"])
    print(json.dumps({"steps": int(rows[-1]["step"]), "validation_loss": loss, "published": PUBLISHED,
                      "difference": loss - PUBLISHED, "within_0.05": abs(loss - PUBLISHED) <= 0.05}))  # fmt: skip


def write_params(folder: Path, text: Path, seed: int) -> None:
    """The default study (whose model is this very preset) on another text, split as nanoGPT splits it."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["seed"] = seed
    params["fetch"]["text"] = {"kind": "path", "name": str(text), "sha256": None, "files": None, "strip": "none"}
    params["fetch"]["split"] |= {"by": "position", "validation_percent": 10, "test_percent": 0}
    params["train"] |= {"epochs": 20, "windows_per_epoch": 1200, "validation_windows": None}
    params["train"] |= {"evaluate_every_epochs": 10}
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)


if __name__ == "__main__":
    main()
