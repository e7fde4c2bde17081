"""What the whole study cost, by stage, and after how many generated tokens a variant has repaid it.

Stages book what they used in results/energy/. Where nothing on a machine measures energy, a booking holds time, which
is priced with the watts that the measuring session of the dense model saw: an estimate, and called one.
"""

from typing import NamedTuple

from prunelab.energy import energy
from prunelab.fragments import Cell, Column, Table, bounded, number, words


class Bill(NamedTuple):
    stages: Table
    joules: float | None  # of the whole study; None where a stage cannot be priced
    estimated: bool
    repaid: Table | None


def bill(study) -> Bill | None:
    """The study's bill; None when no stage booked anything."""
    if not study.bills:
        return None
    session = study.files[study.dense["path"]].get("efficiency", {})
    power, per_kwh = session.get("power"), (session.get("grams_per_kwh"), session.get("litres_per_kwh"))
    spent: dict[str, list] = {}
    for name, booking in study.bills.items():
        spent.setdefault(name.rpartition("/")[2].partition("-")[0], []).append(booking)
    rows, total, seconds = [], 0.0, 0.0
    for stage, bookings in spent.items():
        priced = [energy.joules(booking, power) if power else None for booking in bookings]
        joules = None if None in priced else sum(priced)
        rows.append(("", _line(stage, len(bookings), sum(b["seconds"] for b in bookings), joules, *per_kwh)))
        total = None if joules is None or total is None else total + joules
        seconds += sum(booking["seconds"] for booking in bookings)
    rows.append(("total", _line("the whole study", len(study.bills), seconds, total, *per_kwh)))
    columns = [
        Column("stage", words=True),
        Column("runs"),
        Column("time", "s"),
        Column("energy", "Wh"),
        Column("carbon", "g CO₂e"),
        Column("water", "l"),
    ]
    estimated = bool(session.get("energy_estimated")) or any(b["meter"] == "time" for b in study.bills.values())
    return Bill(Table(columns, rows), total, estimated, _repaid(study, total))


def _line(name: str, runs: int, seconds: float, joules: float | None, carbon, water) -> list[Cell]:
    """carbon, water: grams and litres a kWh, None where the session doesn't say."""
    grams = None if joules is None or carbon is None else energy.grams(joules, carbon)
    litres = None if joules is None or water is None else energy.litres(joules, water)
    return [
        words(name),
        number(runs, "d"),
        number(seconds, ",.1f"),
        number(joules, ".3f", 1 / 3600),
        number(grams, ".3f"),
        number(litres, ".3g"),
    ]


def _repaid(study, total: float | None) -> Table | None:
    """Break-even of every variant whose saving is known; "never" where it may be zero."""
    rows = []
    for row in study.rows:
        measured = study.files[row["path"]].get("efficiency", {})  # a row that was not timed saves nothing of its own
        saving = tuple(measured.get(f"decode_j_saving_per_token{end}") for end in ("", "_lo", "_hi"))
        if row["rate"] is None or total is None or None in saving:
            continue
        tokens = energy.break_even(total, saving, measured.get("decode_j_verdict"))
        never = Cell("never: the saving may be zero", float("inf"))
        scaled = None if tokens is None else tuple(count / 1e6 for count in tokens)
        cells = [
            words(study.label(row["path"])),
            bounded(tuple(1e3 * value for value in saving), "+.3g"),
            never if scaled is None else bounded(scaled, ",.3g"),
        ]
        rows.append(("", cells))
    if not rows:
        return None
    columns = [
        Column("variant", words=True),
        Column("saves", "mJ/token [95 %]"),
        Column("repaid after", "M tokens [95 %]"),
    ]
    return Table(columns, rows)
