"""Make and judge all cells of a seed (`prune.cells`), and keep what was found of them alone.

    python -m stages.cells --dense models/s1/dense --data data/fetched --seed s1 --reference results/s1/dense \\
        --out results/s1/cells
"""

import argparse
from pathlib import Path

from prunelab import tasks
from prunelab.disk import places
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.making import given
from prunelab.study import naming


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.cells", description=__doc__.partition("\n")[0])
    given.add_options(parser)
    parser.add_argument("--reference", type=Path, required=True, help="results of the dense model")
    parser.add_argument("--probes", type=Path, default=Path("data/probes"), help="folder of the stage probes")
    arguments = naming.parse(parser, argv)
    places.check_folder(arguments.out, arguments.reference, arguments.probes)
    told = given.of_options(arguments, tasks.of)
    long = any(told.takes_long(variant) for variant in told.settings.prune.cell_variants)
    with energy.stage_meter("cells", arguments.energy, long=long, country=told.settings.energy.country):
        from prunelab.making import cells  # after the settings: a misspelt key must not wait for slow imports

        count = cells.judge(told, arguments.reference, arguments.probes, arguments.out)
    print(f"{count} cells of {arguments.seed}" if count else "no cells: prune.cells is []")


if __name__ == "__main__":
    exit_cleanly(main)
