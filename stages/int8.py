"""Quantise the dense model to dynamic int8, the usual alternative to pruning: a row of its own beside the variants.

python -m stages.int8 dense-int8 --dense models/dense --out models/dense-int8
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.disk import places
from prunelab.energy import energy


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.int8", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="the row's id, such as dense-int8")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the quantised model")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    places.check_folder(arguments.out, arguments.dense)
    with energy.stage_meter(f"int8-{arguments.name}", arguments.energy):
        from prunelab.models import checkpoint, int8

        facts = int8.save(checkpoint.load(arguments.dense), arguments.dense, arguments.out, arguments.name)
    print(f"{arguments.name}: {facts['layers']} layers in int8, {facts['bytes']:,} bytes")


if __name__ == "__main__":
    errors.exit_cleanly(main)
