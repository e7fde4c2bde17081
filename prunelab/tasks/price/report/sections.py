"""What the task price adds to the report: error against compression, calibration, examples, baselines and controls."""

import json
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from prunelab.errors import InputError
from prunelab.fragments import UNKNOWN, Cell, Column, Picture, Section, Table, Tile, bounded, ends, number, words
from prunelab.tasks.price.money import amount, digits
from prunelab.tasks.price.report import charts, points
from prunelab.tasks.price.report.words import claims, worth

PANELS = 5  # of predictions against truth, dense among them
CONTROLS = {"shuffled_pictures": "other pictures", "blank_text": "no text"}


class Judged(NamedTuple):
    """What one model said of every held-out row."""

    price: np.ndarray  # (rows,)
    predicted: np.ndarray  # (rows,) nan where the answer is no number
    answers: list[dict]  # id, item, answer
    pictures: dict[int, bytes]  # JPEG, by row; dense's alone, none of data that must not be passed on


def sections(study, rows: list[dict]) -> list[Section]:
    """The sections of `study` (report.results.Study), whose rows are `rows`."""
    price, found = study.settings.price, points.by_method(rows)
    dense = study.files[study.dense["path"]]["quality"]
    told = []
    if found:
        told.append(_against_compression(study, found, dense))
    judged = {row["path"]: read(study, row) for row in _shown(study, found)}
    told.append(_calibration(study, judged, price))
    told.append(_examples(study, judged, price))
    told.append(Section("baselines", "Baselines and controls", _compared(study, rows, dense, price)))
    if seeing := _seeing(study):
        told.append(Section("price-seeing", "What looking costs", [seeing]))
    return told


def _against_compression(study, found: dict, dense: dict) -> Section:
    several = len(study.settings.seeds) > 1
    unit = study.settings.price.currency
    sharp = study.settings.report.sharp_rise_percent
    caption = (
        "The paper's figure 4 for this study. Bars are 95 % intervals of the difference to dense, "
        + ("over seeds" if several else "paired over items")
        + "; the dashed line is at 30 %, up to which the paper finds the error kept. Dotted: predictors that are no "
        "model. Triangles at the upper edge lie above the picture."
    )
    chart = Picture(
        lambda drawing: charts.error_against_compression(drawing, found, dense, unit),
        "Mean absolute error against the share of weights removed, a line for each method",
        caption,
    )
    return Section("price-error", "Error against compression", [chart, [worth(dense), *claims(found, sharp)]])


def _shown(study, found: dict[str, list]) -> list[dict]:
    """Dense and some rates of one method, the first of the study that has any: the paper's where it is there."""
    method = next((name for name in ("systematic", "magnitude") if name in found), next(iter(found), None))
    curve = found.get(method, [])
    places = np.linspace(0, len(curve) - 1, min(PANELS - 1, len(curve))).round().astype(int) if curve else []
    return [study.dense, *(curve[place].row for place in places)]


def read(study, row: dict) -> Judged:
    """What the model of a row answered. Raises InputError where its stage has left nothing."""
    name = "reference" if row["path"] == row["dense"] else "windows"
    path, stage = study.results_of(row["path"]) / f"{name}.safetensors", study.stage("quality", row["path"])
    try:
        with safe_open(path, "np") as file:
            about = json.loads(file.metadata()["prunelab"])
            pictures = {
                int(key.partition(".")[2]): file.get_tensor(key).tobytes()
                for key in file.keys()  # noqa: SIM118 (not a dict)
                if key.startswith("picture.")
            }
            return Judged(file.get_tensor("price"), file.get_tensor("predicted"), about["answers"], pictures)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the stage {stage} writes it: dvc repro") from None
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: broken ({error}); write it again: dvc repro -f -s {stage}") from None


def _calibration(study, judged: dict[str, Judged], price) -> Section:
    by_path = {row["path"]: row for row in study.rows}
    shown = [
        (charts.panel_name(by_path[path], study.label(path)), one.price, one.predicted) for path, one in judged.items()
    ]
    chart = Picture(
        lambda drawing: charts.predictions_against_truth(drawing, shown, price.currency),
        "Predicted against true prices, a panel for each model",
        "A dot is a held-out row. On the line a prediction is right; dots that flatten towards a level mean that a "
        "model falls back on a typical price. Dots beyond the picture stand at its edge.",
    )
    return Section("price-calibration", "Predictions against truth", [chart])


def _examples(study, judged: dict[str, Judged], price) -> Section:
    dense = judged[study.dense["path"]]
    if not dense.pictures:
        why = (
            "No pictures are shown: the data of this study must not be passed on (`price.rows.pass_on: false`), and a "
            "report travels."
        )
        return Section("price-examples", "Examples", [why])
    by_path, tiles = {row["path"]: row for row in study.rows}, []
    for place, jpeg in sorted(dense.pictures.items(), key=lambda item: dense.price[item[0]]):
        lines = []
        for path, one in judged.items():
            predicted = one.predicted[place]
            known = np.isfinite(predicted)
            text = amount(predicted, price.currency, price.decimals) if known else "no number"
            name = charts.panel_name(by_path[path], study.label(path))
            lines.append((name, text, "" if known else "bad"))
        true = amount(dense.price[place], price.currency, price.decimals)
        tiles.append(Tile(jpeg, f"{dense.answers[place]['id']}: {true}", lines))
    said = "Held-out rows from the lowest price to the highest: the true price, and what the models say."
    return Section("price-examples", "Examples", [said, tiles])


def _seeing(study) -> str | None:
    """The vision tower's part of dense's time, in a sentence; None where it was not measured."""
    timed = study.files[study.dense["path"]].get("efficiency", {})
    share = timed.get("vision_share")
    if share is None:
        return None
    low, high = (100 * timed[f"vision_share_{end}"] for end in ("p10", "p90"))
    return (
        f"The dense model's vision tower takes {100 * share:.0f} % of a prefill (from {low:.0f} to {high:.0f} % in "
        f"eight of ten passes): {timed['vision_ms']:.3g} ms. A prefill of {timed['prompt_tokens']} tokens, picture "
        f"included, takes {timed['prefill_ms']:.3g} ms; each token of an answer takes "
        f"{timed['decode_ms_per_token']:.3g} ms and looks at no picture. Pruning the language model alone changes "
        "nothing of the tower's time."
    )


COLUMNS = [
    Column("predictor", words=True),
    Column("error", "mean absolute [95 %]"),
    Column("against dense", "% [95 %]"),
    Column("dense minus it", "[95 %]"),
    Column("median error"),
    Column("log error", "mean |ln ratio|"),
    Column("R²"),
    Column("rank correlation"),
    Column("no number", "% of answers"),
    Column("error", "no number as 0"),
    Column("other pictures", "error, × own"),
    Column("no text", "error, × own"),
]


def _compared(study, rows: list[dict], dense: dict, price) -> list:
    form = f",.{digits(dense['mae'], price.decimals)}f"
    lines = []
    for name, told in (dense.get("baselines") or {}).items():
        cells = [
            words(charts.NAMES.get(name, name)),
            number(told["mae"], form),
            UNKNOWN,
            bounded(ends(told, "dense_diff"), f"+{form}", _mark(ends(told, "dense_diff"))),
            *_fit(told, form),
        ]
        lines.append(("reference", [*cells, *[UNKNOWN] * (len(COLUMNS) - len(cells))]))
    for row in rows:
        told = study.files[row["path"]]["quality"]
        own = row["path"] == row["dense"]
        increase = ends(row, "mae_increase_percent")
        cells = [
            words(study.label(row["path"])),
            bounded(ends(told, "mae"), form),
            words("") if own else bounded(increase, "+.1f", _mark(increase)),
            UNKNOWN,
            *_fit(told, form),
            number(told.get("not_a_number_share"), ".1f", 100),
            number(told.get("mae_as_zero"), form),
            *(_control(told, kind, form) for kind in CONTROLS),
        ]
        lines.append(("reference" if row["rate"] is None else "", cells))
    said = (
        f"Errors in {price.currency} on {dense.get('rows', 0):,} held-out rows of {dense.get('items', 0):,} items; an "
        "item counts once however many pictures it has. An answer that is no number counts with the error of the mean "
        "predictor; the public recipe counts it as a price of 0, which stands beside. Other pictures: each row shows "
        "that of another item; no text: the prompt's columns are empty. A model that looks and reads gets worse by "
        "both; a figure near 1 × says that it does without."
    )
    return [said, _filled(Table(COLUMNS, lines))]


def _fit(told: dict, form: str) -> list[Cell]:
    return [
        number(told.get("median_absolute_error"), form),
        number(told.get("log_error"), ".3f"),
        number(told.get("r2"), ".3f"),
        number(told.get("rank_correlation"), ".3f"),
    ]


def _control(told: dict, kind: str, form: str) -> Cell:
    control = (told.get("controls") or {}).get(kind, {})
    cell = number(control.get("times_own"), ".2f")
    if cell is UNKNOWN:
        return cell
    lo = control.get("mae_diff_lo")
    ignored = lo is not None and lo <= 0  # no worse without it
    mae = format(control["mae"], form)
    return cell._replace(mark="bad" if ignored else "", hint=f"mean absolute error {mae}")


def _mark(triple) -> str:
    """Green where less is certain, red where more is."""
    _, lo, hi = triple
    return "" if lo is None or hi is None else "good" if hi < 0 else "bad" if lo > 0 else "same"


def _filled(table: Table) -> Table:
    """Without the columns that no row fills."""
    kept = [i for i in range(len(table.columns)) if any(cells[i] is not UNKNOWN for _, cells in table.rows)]
    return Table([table.columns[i] for i in kept], [(kind, [cells[i] for i in kept]) for kind, cells in table.rows])
