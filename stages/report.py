"""Gather what the study left behind into a table, a few numbers, charts, and one page.

    python -m stages.report --results results --models models --recommendation report/recommendation.json --out report

Writes results.csv, metrics.json, index.html and plots/. The list of variants comes from params.yaml, what to deploy
from the stage recommend.
"""

import argparse
from pathlib import Path

from prunelab import errors, tasks
from prunelab.deploy import recommendation
from prunelab.disk import files, places
from prunelab.report import results
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--models", type=Path, required=True, help="folder of all models")
    parser.add_argument("--recommendation", type=Path, required=True, help="what the stage recommend wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    arguments = parser.parse_args(argv)
    check(arguments)
    study = results.read(params.load(), arguments.results, arguments.models)  # before the slow imports: it may refuse
    identifiers = [variant.id for variant in study.settings.variants()]
    write(study, recommendation.read(arguments.recommendation, identifiers), arguments.out)
    print(f"{len(study.rows)} rows in {arguments.out / 'results.csv'}, the report: {arguments.out / 'index.html'}")


def check(arguments) -> None:
    """The folder of a report is one of its own: nobody's page of the same name is replaced."""
    places.check_shared(arguments.out, arguments.results, arguments.models)
    places.check_folder(arguments.out / "plots")
    page, table = arguments.out / "index.html", arguments.out / "results.csv"
    if page.exists() and not table.exists():  # a report's table is written before its page
        raise errors.InputError(f"{page}: expected that of an earlier report or none, found another; name a new folder")


def write(study: results.Study, advice: dict, out: Path) -> None:
    """The work, behind the imports that cost a second."""
    from prunelab.report import page, plots, verdict

    found = verdict.groups(study)
    drawn = page.pictures(study, found)
    html = page.render(study, found, drawn, advice, tasks.of(study.settings.task).sections(study, study.rows))
    with files.whole_directory(out / "plots") as folder:
        plots.write(folder, study, found, drawn, page.curve_tables(study), page.trajectory_paths(study))
    results.write_csv([row | advice["rivals"][row["variant"]] for row in study.rows], out / "results.csv")
    files.write_json(out / "metrics.json", metrics(study))
    with files.whole_file(out / "index.html") as partial:
        partial.write_text(html, encoding="utf-8")


def metrics(study: results.Study) -> dict:
    """The few numbers for `dvc metrics diff`, by variant; of a study of several seeds by variant and tag.

    A time stands once, at the row that was timed.
    """
    column, rows = study.headline.column, study.rows
    names = {
        column: column,
        "sparsity": "sparsity_pruned",
        "packed_bytes": "packed_bytes",
        "decode_ratio": "decode_ratio",
        "pooled_accuracy": "pooled_accuracy",
    }
    several, found = len({row["seed"] for row in rows}) > 1, {}
    for row in rows:
        figures = {short: row[name] for short, name in names.items() if row.get(name) is not None}
        if row["timed_as"]:
            figures.pop("decode_ratio", None)
        if several:
            found.setdefault(row["variant"], {})[row["path"].partition("/")[0]] = figures
        else:
            found[row["variant"]] = figures
    return found


if __name__ == "__main__":
    errors.exit_cleanly(main)
