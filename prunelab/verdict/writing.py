"""The verdict of two finished studies, written: `prunelab verdict`.

finished/<name>.html, .json, .png (loss against compression) and <name>-effects.csv, beside the studies' own folders.
"""

import csv
import math
from pathlib import Path

from prunelab.disk import places
from prunelab.disk.files import whole_file, write_json
from prunelab.fragments import Table
from prunelab.mirror import kept
from prunelab.verdict import page, pictures, tables, wording
from prunelab.verdict.findings import Findings, find

EFFECTS = ("kind", "factor", "level", "regime", "rate", "loss_diff", "loss_diff_lo", "loss_diff_hi", "sd", "p", "seeds",
           "windows_lo", "windows_hi")  # fmt: skip


def write(name: str = "verdict", folder: Path = kept.FOLDER) -> Findings:
    """Read the study `name` and its twin past its best from `folder`, and write what they say there.

    Raises InputError where neither is kept, or where they do not compare.
    """
    from prunelab.report import drawing

    folder = Path(folder)
    places.check_shared(folder)
    found = find(name, folder)
    html, content, rows = page.render(found), as_json(found), effects(found)
    with whole_file(folder / f"{name}-effects.csv") as partial:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(EFFECTS)
            writer.writerows(rows)
    with whole_file(folder / f"{name}.png") as partial:
        drawing.save(pictures.loss_against_compression(found), partial, "png")
    write_json(folder / f"{name}.json", content)
    with whole_file(folder / f"{name}.html") as partial:
        partial.write_text(html, encoding="utf-8")
    return found


def effects(found: Findings) -> list[list]:
    """The rows of the table of all effects, in the columns EFFECTS; unknown is empty."""
    return [
        [one.kind, one.factor, one.level, one.regime, one.rate,
         *(_known(value) for value in (*one.effect.interval, one.effect.sd, one.effect.p)), one.effect.seeds,
         _known(one.effect.inner_lo), _known(one.effect.inner_hi)]
        for one in found.contrasts
    ]  # fmt: skip


def as_json(found: Findings) -> dict:
    """What verdict.json holds: sentences, comparisons, limits and breaks; differences in nats a token."""
    return {
        "headline": wording.headline(found),
        "claims": [claim._asdict() for claim in wording.claims(found)],
        "primary": [
            {"id": one.primary.id, "comparison": one.primary.words, "so": one.words, "p_holm": _known(one.p),
             "effect": _effect(one.effect) if one.effect else None}
            for one in found.primary
        ],
        "safe": [
            {"regime": regime, "pruned_by": level, "up_to_percent": one.up_to, "reached_at_percent": one.breached,
             "tested": one.tested}
            for (regime, level), one in found.safe.items()
        ],
        "breaks": [
            {"regime": regime, "pruned_by": level, "found": one.found, "at_percent": [_known(end) for end in one.at],
             "change_of_slope": [_known(end) for end in one.change], "at_the_edge_of_what_was_tested": one.at_edge}
            for (regime, level), one in found.breaks.items()
        ],
        "precision": [
            {"factor": one.factor, "level": one.level, "regime": one.regime, "rate": one.rate,
             "half_width": _known(one.effect.half), "sd": _known(one.effect.sd), "seeds": one.effect.seeds,
             "seeds_for_0.01": one.seeds_for_interval, "seeds_to_find_0.01": one.seeds_for_power}
            for one in found.precisions
        ],
        "studies": {which: {key: regime.study.about.get(key) for key in
                            ("study", "seeds", "kept_at", "git_revision", "settings_sha256")}
                    for which, regime in found.regimes.items()},
        "missing": found.missing,
    }  # fmt: skip


def _effect(effect) -> dict:
    named = zip(("loss_diff", "loss_diff_lo", "loss_diff_hi"), effect.interval, strict=True)
    return {name: _known(value) for name, value in named} | {
        "p": _known(effect.p), "seeds": effect.seeds, "by_seed": effect.by_seed,
        "windows_lo": _known(effect.inner_lo), "windows_hi": _known(effect.inner_hi),
    }  # fmt: skip


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def told(found: Findings, name: str, folder: Path, markdown: bool = False) -> str:
    """What the terminal shows: the headline, a line a claim, the six comparisons; as Markdown for a README."""
    claims, precise = wording.claims(found), wording.precise(found)
    if markdown:
        lines = [f"- **{claim.question}** *{claim.status}.* {claim.answer}" for claim in claims]
        table = _markdown(tables.primary(found.primary))
        return "\n".join([f"**{wording.headline(found)}**", "", *lines, "", table, "", precise])
    lines = [f"{claim.status:>13}  {claim.question}\n{'':15}{claim.answer}" for claim in claims]
    six = [f"{one.primary.id}  {one.words:12}  {_short(one)}  {one.primary.words}" for one in found.primary]
    report = f"report: {(Path(folder) / f'{name}.html').resolve()}"
    told = [wording.headline(found), "", *lines, "", "Named beforehand (Holm-adjusted):", *six, "", precise]
    return "\n".join([*told, *found.missing.values(), report]).replace("`", "")


def _short(answer) -> str:
    return wording.nats(answer.effect) if answer.effect else "–"


def _markdown(table: Table) -> str:
    """A table for a README."""
    heads = [f"{column.name} {column.unit}".strip() for column in table.columns]
    rules = ["---" if column.words else "---:" for column in table.columns]
    lines = [heads, rules, *([cell.text for cell in cells] for _, cells in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
