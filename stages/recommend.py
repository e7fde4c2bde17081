"""Say what to deploy, under the budgets of the settings, by the intervals of every row.

    python -m stages.recommend --results results --models models --out report

Writes recommendation.json, which export, report and MLflow read. For every machine of `deploy.devices` it holds an
answer of its own, from what that machine measured of the same weights.
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.deploy import figures, recommendation
from prunelab.disk import files, places
from prunelab.report import results, verdict
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.recommend", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--models", type=Path, required=True, help="folder of all models")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    arguments = parser.parse_args(argv)
    path = arguments.out / "recommendation.json"
    places.check_shared(arguments.out, arguments.results, arguments.models)
    places.check_json(path, "told")
    study = results.read(params.load(), arguments.results, arguments.models)
    found = of(study)
    files.write_json(path, found)
    for device, there in found["devices"].items():
        print(f"on {device}: {there['told'][0].replace('`', '')}")
    print(found["told"][0].replace("`", ""))


def of(study: results.Study) -> dict:
    """The recommendation of a study, with one for every other machine. Raises InputError for another's weights."""
    wanted = study.settings.deploy

    def values(row: dict):
        return verdict.item_values(study, row)

    found = recommendation.make(study.rows, study.headline, wanted, values, study.dense.get("device"))
    for device, folder in wanted.devices.items():
        rows = results.elsewhere(study, folder).rows
        there = figures.candidates(rows, study.headline)
        found["devices"][device] = recommendation.of_machine(there, wanted, values, rows[0].get("device"))
    return found


if __name__ == "__main__":
    errors.exit_cleanly(main)
