"""The verdict as one HTML file, in the look of the report: offline, light and dark."""

import functools

from prunelab.fragments import Column, Picture, Section, Table, words
from prunelab.mirror import kept
from prunelab.report import charts, evolution, sections
from prunelab.report import page as report_page
from prunelab.report.drawing import PALETTE
from prunelab.verdict import factors, pictures, tables, wording
from prunelab.verdict.cells import PAST_BEST, Regime
from prunelab.verdict.factors import BOTH
from prunelab.verdict.findings import Findings

PAPER = (
    "The paper (arXiv 2502.17071), in words: of its 10.7 M-parameter transformer the loss falls up to "
    f"{wording.MODERATE} % of compression and rises sharply past {wording.SHARP} %. Ours: bars are 95 % intervals "
    "over seeds of the difference to the dense model of the same training; the grey band is dense ± 0.01 nats, "
    "the tinted strip the interval of the place where pruning by history breaks away. Solid: final weights kept; "
    "dashes: averaged; dots: retrained under the mask. Beyond the upper edge every curve is a cliff: the table "
    "below has its numbers. Point at a line for its name."
)


def render(found: Findings) -> str:
    """The whole page."""
    environment = report_page.templates()
    drawn = sections.drawn(environment, _sections(found), worse=1)
    return environment.get_template("verdict.html.j2").render(
        title="Does weight history add anything to pruning?",
        facts=" · ".join(_fact(regime) for regime in found.regimes.values()),
        palette=PALETTE,
        headline=wording.headline(found),
        claims=wording.claims(found),
        precise=wording.precise(found),
        missing=list(found.missing.values()),
        sections=drawn,
    )


def _fact(regime: Regime) -> str:
    seeds = regime.study.about["seeds"]
    return f"{regime.name}: study {regime.study.name}, {len(regime.losses)} models of each of {len(seeds)} seeds"


def _sections(found: Findings) -> list[Section]:
    return [
        _primary(found),
        _compression(found),
        _effects(found),
        _interactions(found),
        _precision(found),
        *_evolution(found),
        *_training(found),
        _studies(found),
    ]


def _primary(found: Findings) -> Section:
    said = (
        "These six were named before any result was there, and they alone decide; their p values are "
        "Holm-adjusted over all six, also where a study is missing. Difference in loss: nats a token, below zero "
        "is better; the interval is over seeds (other trainings), the narrower one over windows of text (these "
        "very models). Everything further down is exploration: of twenty comparisons of equals, one is expected "
        "to stand out."
    )
    return Section("primary", "Six comparisons that were named beforehand", [said, tables.primary(found.primary)])


def _compression(found: Findings) -> Section:
    picture = Picture(
        lambda _: pictures.loss_against_compression(found),
        "Loss minus that of the dense model against compression, a panel for each regime",
        PAPER,
    )
    safe = (
        "Safe up to: the largest rate up to which, at every tested rate, the whole interval stays below dense + 0.01 "
        "nats. Breaks at: the knot of the broken line fitted to every seed's increase above the unpruned model of the "
        "same treatment, with its interval over seeds."
    )
    parts = [picture, safe, tables.safe(found)]
    for which in found.regimes:
        parts += [f"Loss, {which}, mean over seeds:", tables.losses(found, which)]
        parts += _table(
            f"Loss minus that of its dense model, {which}:",
            tables.against_dense(found, which, factors.AGAINST_DENSE.name),
        )
    if PAST_BEST in found.regimes:
        beside = (
            "Past its best, how the loss moves against that dense model says how over-fitted it was. Whether to "
            "prune it is told by the unpruned model of the same treatment, and by the checkpoint that simply "
            "stopped in time:"
        )
        parts += _table(beside, tables.against_dense(found, PAST_BEST, factors.CONTROLLED.name))
    return Section("compression", "Loss against compression", parts)


def _table(said: str, table: Table | None) -> list:
    return [] if table is None else [said, table]


def _effects(found: Findings) -> Section:
    changes = "; ".join(f"{factor.name}: {factor.change}" for factor in factors.FACTORS)
    parts: list = [f"Each effect is a difference of losses at equal sparsity, paired over seeds. {changes}."]
    if found.precisions:
        caption = (
            "Main effects at 50 % with 95 % intervals over seeds; in the grey band they are smaller than 0.01 nats."
        )
        parts.append(
            Picture(lambda _: pictures.main_effects(found.precisions), "Main effects with their intervals", caption)
        )
    for which in found.regimes:
        parts += _table(f"{wording.title(which)}:", tables.main_effects(found, which))
    return Section("effects", "What ranking, threshold, keeping, window, checkpoint and retraining change", parts)


def _interactions(found: Findings) -> Section:
    parts: list = ["An interaction is the effect at one level minus the effect at another: zero where both are alike."]
    for which in found.regimes:
        parts += _table(f"{wording.title(which)}:", tables.interactions(found, which))
    parts += _table(
        "Between the regimes, past its best minus stopped in time, by seed:", tables.interactions(found, BOTH)
    )
    return Section("interactions", "Interactions", parts)


def _precision(found: Findings) -> Section:
    said = (
        f"{wording.precise(found)} How many seeds it would take follows from the spread of these few, so it is a rough "
        "number. Seeds to find 0.01: a paired t test would find a true difference of 0.01 nats four times out of five."
    )
    table = tables.precision(found)
    return Section("precision", "How precise the main effects are", [said, *([table] if table else [])])


def _evolution(found: Findings) -> list[Section]:
    import pandas

    parts: list = []
    for which, regime in found.regimes.items():
        path = regime.study.file(kept.TRAJECTORIES)
        table = pandas.read_parquet(path) if path else None
        if table is None or table["tick"].nunique() < 2:
            continue
        paths = evolution.paths(table)
        drawn, named = [path for path in paths if not path.named], [path for path in paths if path.named]
        title = wording.title(which)
        if drawn:
            parts.append(
                Picture(
                    functools.partial(_trajectories, paths),
                    f"Values of randomly sampled weights over training, {which}",
                    f"{title}: randomly sampled weights, by how they end compared with how they began; "
                    "named ones in ink.",
                )
            )
        parts.append(
            Picture(
                functools.partial(_clearest, evolution.typical(drawn), named),
                f"Single weights over training, {which}",
                f"{title}: of every kind the clearest by rule (the longest way from first to last value, in spreads of "
                "their tensor; of the flat ones the shortest), and those that train.tracker.trajectories names.",
            )
        )
    said = (
        "The paper shows randomly picked weights and such as grow, stay flat or diverge, and gives no rule; ours "
        "measures in units of the tensor's own spread. Shrink: ends nearer to zero, which a final magnitude "
        "forgets and a history remembers. First seed."
    )
    return [Section("evolution", "How weights evolved", [said, *parts])] if parts else []


def _trajectories(paths, _):
    return charts.trajectories(paths)


def _clearest(paths, named, _):
    return pictures.clearest(paths, named)


def _training(found: Findings) -> list[Section]:
    import pandas

    parts = []
    for which, regime in found.regimes.items():
        path = regime.study.file(kept.CURVES)
        table = pandas.read_csv(path) if path else None
        if table is None or not table[["train_loss", "validation_loss"]].notna().any(axis=None):
            continue
        curves = {str(seed): one for seed, one in table.groupby("seed", sort=False)}
        title = wording.title(which)
        parts.append(
            Picture(
                functools.partial(_curve, curves),
                f"Training and validation loss, {which}",
                f"{title}: training and validation loss; thin lines are further seeds.",
            )
        )
    return [Section("training", "Where each training stopped", parts)] if parts else []


def _curve(curves, _):
    return charts.training_curve(curves)


def _studies(found: Findings) -> Section:
    said = "Everything was read from the folders that finished studies leave behind."
    parts: list = [said, _facts(found)]
    if (table := differences(found)) is not None:
        parts += ["What the two studies do differently:", table]
    return Section("studies", "The studies", parts)


def _facts(found: Findings) -> Table:
    columns = [Column("regime", words=True), Column("study", words=True), Column("seeds", words=True)]
    names = ("kept", "code", "machine", "settings sha256", "text sha256", "windows")
    columns += [Column(name, words=True) for name in names]
    rows = []
    for which, regime in found.regimes.items():
        about, first = regime.study.about, regime.study.rows[0]
        cells = [
            words(which),
            words(regime.study.name),
            words(", ".join(about["seeds"])),
            words(about.get("kept_at")),
            words(about.get("git_revision")),
            words(first.get("device")),
            words(about.get("settings_sha256", "")[:12]),
            words(first.get("text_sha256", "")[:12]),
            words(first.get("windows")),
        ]
        rows.append(("", cells))
    return Table(columns, rows)


def differences(found: Findings) -> Table | None:
    """The settings in which the two studies differ; None of one."""
    if len(found.regimes) < 2:
        return None
    one, other = (_flat(regime.study.about["settings"]) for regime in found.regimes.values())
    columns = [Column("setting", words=True), *(Column(which, words=True) for which in found.regimes)]
    rows = [
        ("", [words(key), words(str(one.get(key, "–"))), words(str(other.get(key, "–")))])
        for key in dict.fromkeys([*one, *other])
        if key != "study" and one.get(key) != other.get(key)
    ]
    return Table(columns, rows)


def _flat(settings: dict, within: str = "") -> dict:
    """`{"train": {"epochs": 4}}` → `{"train.epochs": 4}`."""
    found = {}
    for key, value in settings.items():
        place = f"{within}{key}"
        found |= _flat(value, f"{place}.") if isinstance(value, dict) else {place: value}
    return found
