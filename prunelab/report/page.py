"""The report as one HTML file: no network, no server, light and dark, prints well.

`render()` gathers sentences, tables and pictures and hands them to templates/report.html.j2, which holds all the words
that every study shares. A section without data is left out or says why it is empty.
"""

import re
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup, escape

from prunelab.deploy import recommendation
from prunelab.disk.files import read_json
from prunelab.report import charts, claims, details, drawing, evolution, sections, tables, verdict
from prunelab.report.bill import bill


class Pictures(NamedTuple):
    """The charts of a study as matplotlib figures; None where it has no data for one."""

    against_sparsity: object | None
    tradeoffs: object | None
    trajectories: object | None
    training_curve: object | None


def pictures(study, found: list[verdict.Group]) -> Pictures:
    """All charts of `study`, whose groups are `found`."""
    sharp, limit = study.settings.report.sharp_rise_percent, study.settings.deploy.worse_percent
    references = [row for row in study.rows if row["rate"] is None]
    dense, headline = study.dense, study.headline
    known = any(group.value is not None for group in found) and dense[headline.column] is not None
    curves, paths = curve_tables(study), trajectory_paths(study)
    return Pictures(
        charts.against_sparsity(headline, found, references, limit, sharp) if known else None,
        charts.tradeoffs(headline, study.rows, dense, 2 * sharp) if known else None,
        charts.trajectories(paths) if paths else None,
        charts.training_curve(curves) if curves else None,
    )


def curve_tables(study) -> dict:
    """history/curve.csv of every dense model that was trained, by its id."""
    import pandas

    found = {}
    for row in study.rows:
        path = study.models / row["path"] / "history" / "curve.csv"
        if row["path"] == row["dense"] and study.settings.train.epochs and path.exists():
            table = pandas.read_csv(path)
            if len(table) and table[["train_loss", "validation_loss"]].notna().any(axis=None):
                found[study.label(row["path"])] = table
    return found


def trajectory_paths(study) -> list[evolution.Path]:
    """The sampled weights of the first dense model; none where it was not trained or nothing was sampled."""
    import pandas

    path = study.models / study.dense["path"] / "history" / "trajectories.parquet"
    if not study.settings.train.epochs or not path.exists():
        return []
    table = pandas.read_parquet(path)
    return evolution.paths(table) if table["tick"].nunique() > 1 else []


def templates() -> jinja2.Environment:
    """Where the page's templates are, and how they are filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code"] = _code
    return environment


def render(study, found: list[verdict.Group], drawn: Pictures, advice: dict, further=()) -> str:
    """The whole page; advice: the content of recommendation.json; further: the sections that the task adds."""
    environment, dense = templates(), study.dense
    shown = next(row for row in study.rows if row["variant"] == recommendation.delivered(advice))
    timed = study.timed_at(shown)
    efficiency = study.files[dense["path"]]["efficiency"]
    return environment.get_template("report.html.j2").render(
        settings=study.settings,
        headline=study.headline,
        palette=drawing.PALETTE,
        dense=dense,
        model=_model(study),
        advice=advice,
        on_a_grid=details.on_a_grid(study),
        claims=claims.claims(study, found),
        masked=[row["path"] for row in study.rows if verdict.masked_only(row, dense)],
        variants=sum(row["rate"] is not None for row in study.rows),
        seeds=len(study.settings.seeds),
        baseline=verdict.BASELINE,
        estimated=any(row["energy_estimated"] for row in study.rows),
        measured_energy=any(row["energy_estimated"] is False for row in study.rows),
        unreliable=_unreliable(study),
        efficiency=efficiency,
        results=tables.results(study, shown["path"] if advice["variant"] else None, advice["rivals"]),
        against=tables.against_baseline(study, found),
        over_seeds=tables.over_seeds([*verdict.unpruned(study), *found], study.headline),
        timed=study.label(timed),
        workloads=details.workloads(study, timed),
        runtimes=details.runtimes(study),
        recovery=details.recovery(study),
        context=details.context(study),
        robustness=details.robustness(study),
        texts=details.texts(study),
        unknown_letters=details.unknown_letters(study),
        other_windows=details.other_windows(study),
        samples=details.samples(study),
        sections=sections.drawn(environment, further, study.headline.sign),
        reproduction=details.reproduction(study),
        bill=bill(study),
        provenance=provenance(study),
        **{
            f"{name}_svg": Markup(drawing.inline(figure, LABELS[name].format(study.headline))) if figure else None
            for name, figure in drawn._asdict().items()
        },
    )


LABELS = {
    "against_sparsity": "{0.title} against sparsity, a line for each method, with the dense model's {0.name}",
    "tradeoffs": "{0.title} against stored size, decoding time and energy",
    "trajectories": "Values of sampled weights over training, by how they evolve",
    "training_curve": "Training and validation loss over optimizer steps",
}


def _code(text: str) -> Markup:
    """Backticks become <code>; everything is escaped first."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _model(study) -> str:
    """The dense model in a few words, such as "gpt2, 0.82 M parameters"."""
    path = study.models / study.dense["path"] / "config.json"
    kind = read_json(path).get("model_type", "model") if path.exists() else study.settings.train.architecture or "model"
    parameters = study.files[study.dense["path"]]["efficiency"].get("parameters")
    return kind if parameters is None else f"{kind}, {parameters / 1e6:,.2f} M parameters"


def _unreliable(study) -> list[tuple[str, str]]:
    """(variant, why) of every measuring session that must not be believed."""
    marked = ((study.label(path), files.get("efficiency", {})) for path, files in study.files.items())
    return [(v, "; ".join(e.get("unreliable_because") or ["marked so"])) for v, e in marked if e.get("unreliable")]


def provenance(study) -> list[tuple[str, str]]:
    """(what, value) of everything a figure of this report depends on and the tables do not show."""
    quality, efficiency = (study.files[study.dense["path"]][name] for name in ("quality", "efficiency"))
    machine, told = study.device or {}, []

    def tell(what: str, value) -> None:
        if value not in (None, "", [], {}):
            told.append((what, str(value)))

    data = "text" if study.settings.fetch.text else "rows"
    tell(data, f"{study.settings.learns_from}, split {quality.get('split')}")
    tell(f"{data} sha256", quality.get("text_sha256"))
    if quality.get("windows"):
        tell(
            "evaluated on",
            f"{quality['windows']:,} windows of {quality.get('context')} tokens, {quality.get('tokens'):,} scored",
        )
    if quality.get("rows"):  # of tasks that judge by something else than text
        tell("evaluated on", f"{quality['rows']:,} rows of {quality.get('items'):,} {study.headline.items}")
    further = study.settings.fetch.texts
    tell(
        "further texts",
        "; ".join(
            f"{one['text']} ({further[one['text']].kind} {further[one['text']].name}, {one['windows']} windows)"
            for one in quality.get("texts") or []
        ),
    )
    tell("precision of dense", quality.get("dtype"))
    tell("device", efficiency.get("device"))
    tell(
        "processor",
        " ".join(f"{machine[k]}{unit}" for k, unit in (("cpu", ","), ("cores", " cores")) if machine.get(k)),
    )
    tell("accelerators", ", ".join(gpu.get("name", "?") for gpu in machine.get("gpus") or []))
    tell("memory", f"{machine['memory_gb']} GiB" if machine.get("memory_gb") else None)
    tell("libraries", ", ".join(f"{name} {version}" for name, version in (machine.get("libraries") or {}).items()))
    tell("runtime", ", ".join(str(efficiency[k]) for k in ("runtime", "dtype") if efficiency.get(k)))
    tell("threads", efficiency.get("threads"))
    tell("timed blocks", f"{efficiency.get('rounds')} of the A/A test, {efficiency.get('dropped_rounds')} dropped")
    tell(
        "energy from",
        ", ".join(f"{part}: {source}" for part, source in (efficiency.get("energy_provenance") or {}).items()),
    )
    if efficiency.get("grams_per_kwh"):
        tell("grid", f"{efficiency['grams_per_kwh']:g} g/kWh ({efficiency.get('grams_source')})")
    if efficiency.get("litres_per_kwh"):
        tell("water", f"{efficiency['litres_per_kwh']:g} l/kWh ({efficiency.get('litres_source')})")
    pruned = [files["sparsity"] for files in study.files.values() if "sparsity" in files]
    tell("pruned tensors", ", ".join(sorted({str(p["scope"]) for p in pruned if p.get("scope")})))
    tell("checkpoint", ", ".join(sorted({str(p["checkpoint"]) for p in pruned if p.get("checkpoint")})))
    histories = {
        ", ".join(f"{k} {v}" for k, v in p["history"].items() if v is not None) for p in pruned if p.get("history")
    }
    tell("weight history", "; ".join(sorted(histories)))
    tell("calibration", "; ".join(sorted({str(p["calibration"].get("hash")) for p in pruned if p.get("calibration")})))
    return told
