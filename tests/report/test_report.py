"""The stage and its page: complete, offline, and honest about what is estimated, unreliable or missing."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest

from prunelab.disk import places
from prunelab.disk.files import write_json
from prunelab.errors import InputError
from prunelab.report import details, results
from stages import recommend, report
from tests.helpers import synthetic


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return synthetic.write(tmp_path, synthetic.settings(tmp_path, prune=synthetic.TWO_METHODS))


def run(folder) -> str:
    given = ["--results", "results", "--models", "models", "--out", "report"]
    recommend.main(given)
    report.main([*given, "--recommendation", "report/recommendation.json"])
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def words(html: str) -> str:
    body = re.sub(r"<(style|script|svg).*?</\1>", "", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.mark.parametrize(("moved", "told"), [(0.5, True), (8.7, False)])
def test_a_model_that_was_int4_before_is_told(tmp_path, moved, told):
    settings = synthetic.settings(tmp_path, prune=synthetic.TWO_METHODS | {"further": ["dense-int4"]})
    found, models = synthetic.write(tmp_path, settings)
    write_json(models / "s1" / "dense-int4" / "quantised.json", {"moved_percent": moved})
    said = details.on_a_grid(results.read(settings, found, models))
    assert (said is not None) == told and (not told or "moved them by 0.5 % only" in said)


class Checker(HTMLParser):
    """Every element closed, every id once, every link within the page, nothing loaded."""

    VOID = frozenset({"meta", "input", "br", "path", "use", "rect"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.loaded = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        # matplotlib names its markers by their content, so equal ids there are equal shapes
        if "id" in attributes and "path" not in (tag, *self.open[-1:]) and "clipPath" not in self.open:
            self.ids.append(attributes["id"])
        self.links += [attributes["href"]] if tag == "a" else []
        self.loaded += [attributes[key] for key in ("src", "data") if key in attributes]
        self.loaded += [attributes["href"]] if tag == "link" else []

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"


def test_everything_is_written(made, tmp_path):
    run(tmp_path)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "results.csv",
        "recommendation.json",
        "metrics.json",
        "index.html",
        "plots",
    }
    plots = {path.name for path in (tmp_path / "report" / "plots").iterdir()}
    charts = {"loss_vs_sparsity", "size_vs_loss", "trajectories", "training_curve"}
    assert plots == {f"{name}.{kind}" for name in charts for kind in ("csv", "svg")} | {
        "time_vs_loss.csv",
        "loss_vs_sparsity.png",
        places.MARK,
    }
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert set(metrics["systematic-50"]) == {"loss", "sparsity", "packed_bytes", "decode_ratio"}
    assert set(metrics["dense-average"]) == {"loss", "sparsity"}


def test_the_page_is_well_formed_and_loads_nothing(made, tmp_path):
    html = run(tmp_path)
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.loaded == []
    anchors = [name for name in checker.ids if not re.fullmatch(r"[mp][0-9a-f]+", name)]
    assert len(anchors) == len(set(anchors))
    assert all(link.startswith("#") and link[1:] in anchors for link in checker.links)
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)
    assert not re.search(r"https?://|@import|url\((?!#)", outside)


def test_the_page_says_what_the_contract_asks_for(made, tmp_path):
    text = words(run(tmp_path))
    assert "Deploy systematic-50 : 1.82 MB on disk" in text and "Does weight history beat plain magnitude" in text
    assert "Masks alone make no dense kernel faster" in text and "no difference" in text
    assert "Energy is estimated" in text and synthetic.HASH in text and "400 windows of 64 tokens" in text
    assert "cpu-2-cores-3f9a" in text and "cpu: cpu_load_model," in text
    for variant in ("dense", "dense-average", "dense-best", "magnitude-50", "systematic-80"):
        assert f"{variant} " in text


def test_a_measured_energy_is_not_called_estimated(made, tmp_path):
    for path in (tmp_path / "results").glob("s1/*/efficiency.json"):
        change(path, energy_estimated=False, energy_provenance={"cpu": "rapl", "gpu": "none", "ram": "model"})
    assert "estimated" not in words(run(tmp_path))


def test_an_unreliable_session_is_marked_at_the_top_and_in_its_row(made, tmp_path):
    why = "the A/A interval of decode is 31.0 % wide, the limit is 10 %"
    change(tmp_path / "results" / "s1" / "magnitude-60" / "efficiency.json", unreliable=True, unreliable_because=[why])
    html = run(tmp_path)
    assert "1 unreliable measurement" in words(html) and why in words(html)
    row = re.search(r"<tr[^>]*><td[^>]*>magnitude-60</td>.*?</tr>", html, re.S)[0]
    assert "no difference ⚠" in row
    assert html.count("⚠") == 2  # the legend and the row


def test_a_fetched_model_says_why_it_has_no_history(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {"kind": "hub", "name": "facebook/opt-125m"}
    settings = synthetic.settings(
        tmp_path,
        prune={"methods": ["magnitude"], "rates": [50, "2of4"], "further": []},
        train={"start": "fetched", "epochs": 0, "tokenizer": "fetched", "architecture": None, "config": {}},
        fetch={"model": model},
    )
    synthetic.write(tmp_path, settings)
    text = words(run(tmp_path))
    assert "was fetched and not trained here, so it has no weight history" in text
    assert "Training of the dense model" not in text
    assert "Published figures beside ours" in text and "193.4" in text and "341.5" in text
    assert "Not comparable as they stand" in text and "the published ones 2048" in text


def test_seeds_are_summed_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.write(tmp_path, synthetic.settings(tmp_path, seeds=["s1", "s2", "s3"], prune=synthetic.TWO_METHODS))
    html = run(tmp_path)
    assert "Means over 3 training seeds" in words(html)
    seeds = html[html.index('id="seeds-table"') :]
    assert seeds[: seeds.index("</table>")].count("<tr") == 1 + 2 + 6  # the controls, then method × rate


def test_depth_of_quality_is_shown_where_the_study_has_it(made, tmp_path):
    rise = {"rise": 0.2, "rise_lo": 0.1, "rise_hi": 0.3, "rise_diff": 0.05, "rise_diff_lo": 0.02, "rise_diff_hi": 0.08}
    rise |= {"bits_diff": 0.3, "bits_diff_lo": 0.2, "bits_diff_hi": 0.4}
    assert "Corrupted text" not in words(run(tmp_path))
    for name in ("dense", "magnitude-50"):
        change(
            tmp_path / "results" / "s1" / name / "quality.json",
            robustness=[{"kind": "typos", "strength_percent": 5, "texts": 24, "bits_per_byte": 2.5, **rise}],
            tasks=[{"task": "proverbs", "version": 1, "questions": 80, "acc": 0.5125, "acc_stderr": 0.056}],
            context_curve=[{"tokens_before_from": 2, "tokens_before_to": 3, "loss": 2.125}],
            samples=[{"prompt": "The <king> ", "seed": None, "text": "& queen", "repetition": 0.0}],
        )
    html = run(tmp_path)
    text = words(html)
    assert "typos 5 %" in text and "+0.300 [+0.200, +0.400]" in text and "+0.050 [+0.020, +0.080]" in text
    assert "51.2 ± 5.6" in text and "Answers" in text and "2–3" in text and "2.125" in text
    assert "The &lt;king&gt; " in html and "&amp; queen" in html  # what a model writes is never markup


def corrupted(diff: tuple, rise: tuple) -> dict:
    """A row of quality.json's `robustness`, with its difference to dense and that of its rise."""
    ends = ("", "_lo", "_hi")
    row = {"kind": "drop", "strength_percent": 20, "texts": 24, "bits_per_byte": 5.0, "rise": 0.0}
    row |= {f"bits_diff{end}": value for end, value in zip(ends, diff, strict=True)}
    return row | {f"rise_diff{end}": value for end, value in zip(ends, rise, strict=True)}


def test_what_is_worse_on_corrupted_text_is_no_good_sign_however_little_it_rose(made, tmp_path):
    worse = corrupted((3.0, 2.8, 3.2), (-1.0, -1.2, -0.8))  # of a ruined model
    for name in ("dense", "magnitude-80"):
        change(tmp_path / "results" / "s1" / name / "quality.json", robustness=[worse])
    html = run(tmp_path)
    table = html[html.index('id="robustness-table"') :]
    table = table[: table.index("</table>")]
    assert re.search(r'class="n bad"[^>]*>\+3\.000 \[\+2\.800, \+3\.200\]', table)
    assert "−1.000 [−1.200, −0.800]" in table and "good" not in table


def test_every_kind_of_text_is_told_beside_dense_and_marked_where_it_is_certain(made, tmp_path):
    def text(name, loss, diff, unknown=0.0):
        ends = dict(zip(("loss_diff", "loss_diff_lo", "loss_diff_hi"), diff, strict=True))
        return {"text": name, "windows": 8, "loss": loss, "perplexity": 9.0, "unknown_percent": unknown, **ends}

    for name, more in (("dense", 0.0), ("magnitude-50", 0.1)):
        change(
            tmp_path / "results" / "s1" / name / "quality.json",
            texts=[
                text("code", 2.5 + more, (more, more / 2, 2 * more), 4.0),
                text("plays", 3.5 - more, (-more, -2 * more, -more / 2)),
                text("dialogue", 3.0, (0.0, -0.1, 0.1)),
            ],
            also_contexts=[{"context": 32, **text("c32", 2.0, (more, more, more))}],
        )
    html = run(tmp_path)
    table = html[html.index('id="texts-table"') :]
    table = table[: table.index("</table>")]
    assert ">2.500<" in table and ">3.500<" in table  # dense's own losses
    assert re.search(r'class="n bad"[^>]*>\+0\.100 \[\+0\.050, \+0\.200\]', table)
    assert re.search(r'class="n good"[^>]*>−0\.100 \[−0\.200, −0\.050\]', table)
    assert re.search(r'class="n"[^>]*>\+0\.000 \[−0\.100, \+0\.100\]', table)
    assert "Of code, 4 % of the tokens are unknown" in words(html) and "windows of 32" in words(html)
    with open(tmp_path / "report" / "results.csv", newline="", encoding="utf-8") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    row = rows["magnitude-50"]
    assert float(row["loss_code"]) == 2.6 and float(row["loss_code_diff_hi"]) == 0.2
    assert float(row["perplexity_c32"]) == 9.0 and float(row["loss_c32_diff"]) == 0.1
    assert rows["systematic-50"]["loss_code"] == ""


def test_recovery_is_shown_before_and_after(made, tmp_path):
    facts = {"from": "magnitude-80", "tokens": 196608, "source": "teacher"}
    facts |= {"validation_loss_before": 1.75, "validation_loss_after": 1.5625}
    change(tmp_path / "models" / "s1" / "systematic-80" / "sparsity.json", recovery=facts)
    text = words(run(tmp_path))
    assert "196,608 teacher 1.7500 1.5625" in text and "Recovery" in text


def test_other_runtimes_are_listed_and_what_is_not_here_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runtimes = {"variants": ["magnitude-50"], "names": ["compile", "semi-structured"]}
    synthetic.write(tmp_path, synthetic.settings(tmp_path, prune=synthetic.TWO_METHODS, runtimes=runtimes))
    with pytest.raises(
        InputError, match=r"magnitude-50/runtimes\.json: no such file; the stage runtimes@magnitude-50-s1"
    ):
        run(tmp_path)
    ratios = {f"{phase}_ratio{end}": 0.8 for phase in ("prefill", "decode") for end in ("", "_lo", "_hi")}
    found = {
        "compile": {"available": True, "decode_verdict": "faster", **ratios},
        "semi-structured": {"available": False, "reason": "needs a CUDA GPU"},
    }
    content = {"variant": "magnitude-50", "device": "x", "runtimes": found}
    (tmp_path / "results" / "s1" / "magnitude-50" / "runtimes.json").write_text(json.dumps(content))
    text = words(run(tmp_path))
    assert "magnitude-50 compile 0.800 [0.800, 0.800] 0.800 [0.800, 0.800] faster" in text
    assert "semi-structured – – not available here: needs a CUDA GPU" in text


def test_the_bill_and_break_even_are_priced_by_the_measuring_session(made, tmp_path):
    power = {"components": ["cpu"], "cores": 2, "watts": {"cpu": {"idle_w": 4.0, "busy_w": 12.0}}}
    change(tmp_path / "results" / "s1" / "dense" / "efficiency.json", power=power, grams_per_kwh=360)
    saving = dict(zip(("", "_lo", "_hi"), (0.002, 0.001, 0.004), strict=True))
    named = {f"decode_j_saving_per_token{end}": value for end, value in saving.items()}
    change(tmp_path / "results" / "s1" / "systematic-50" / "efficiency.json", decode_j_verdict="less", **named)
    untold = (
        tmp_path / "results" / "s1" / "systematic-80" / "efficiency.json"
    )  # saves as much, but inside the A/A effect
    change(untold, decode_j_verdict="no difference", **named)
    zero = {name: value - 0.002 for name, value in named.items()}
    change(tmp_path / "results" / "s1" / "magnitude-50" / "efficiency.json", **zero)
    (tmp_path / "results" / "energy" / "s1").mkdir(parents=True)
    unread = {"cpu_share": None, "cpu_j": None, "gpu_j": None, "ram_j": None, "provenance": {}, "meter": "time"}
    for name, seconds, cpu_seconds in (("train", 500.0, 1000.0), ("prune-systematic-50", 100.0, 100.0)):
        booking = {"name": name, "seconds": seconds, "cpu_seconds": cpu_seconds, **unread}
        (tmp_path / "results" / "energy" / "s1" / f"{name}.json").write_text(json.dumps(booking))
    text = words(run(tmp_path))
    # train: 500 s at 12 W; prune: 100 s at 4 + 8/2 W; 6800 J = 1.889 Wh = 0.68 g at 360 g/kWh
    assert "train 1 500.0 1.667 0.600" in text and "the whole study 2 600.0 1.889 0.680" in text
    # 6800 J / 2 mJ = 3.4 M tokens, between 6800/4 and 6800/1 thousand
    assert "systematic-50 +2 [+1, +4] 3.4 [1.7, 6.8]" in text
    assert "systematic-80 +2 [+1, +4] never" in text
    assert "magnitude-50 +0 [−1, +2] never" in text
    assert "What the study cost (estimated)" in text


def test_the_plots_hold_the_numbers_of_the_study(made, tmp_path):
    run(tmp_path)
    with open(tmp_path / "report" / "plots" / "loss_vs_sparsity.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["series"], row["rate"]) for row in rows][:3] == [
        ("magnitude", "50"),
        ("magnitude", "60"),
        ("magnitude", "80"),
    ]
    with open(tmp_path / "report" / "results.csv", encoding="utf-8") as file:
        table = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(rows[0]["loss"]) == pytest.approx(float(table["magnitude-50"]["loss"]), abs=1e-6)


def test_two_runs_write_equal_bytes(made, tmp_path):
    first = run(tmp_path), (tmp_path / "report" / "plots" / "loss_vs_sparsity.svg").read_bytes()
    assert first == (run(tmp_path), (tmp_path / "report" / "plots" / "loss_vs_sparsity.svg").read_bytes())


def test_the_dense_model_in_fewer_bits_stands_in_charts_columns_and_the_first_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    further = {"further": ["dense-int8"]}
    synthetic.write(tmp_path, synthetic.settings(tmp_path, prune=synthetic.TWO_METHODS | further))
    html = run(tmp_path)
    assert "Removal, a mask, quantising or both? Beside dense-int8 (1.20 MB): at its loss or less" in words(html)
    assert html.count(">dense-int8</text>") == 3  # in the panels of size, time and energy
    assert html.count("<title>dense in fewer bits, unpruned</title>") == 2  # the line that pruning has to get below
    with open(tmp_path / "report" / "results.csv", encoding="utf-8") as file:
        table = {row["variant"]: row for row in csv.DictReader(file)}
    assert table["magnitude-50"]["dominated_by"] == "dense-int8" == table["magnitude-50"]["best_rival"]
    assert table["dense-int8"]["dominated_by"] == ""  # there is no other rival to compare it with
    assert float(table["magnitude-50"]["rival_bytes_ratio"]) > 1.3
    assert "dominated by" in html and ">dense-int8</td>" in html
    (tmp_path / "results" / "s1" / "dense-int8" / "quality.json").unlink()
    with pytest.raises(InputError, match=r"dense-int8/quality\.json: no such file; .* quality-further@dense-int8-s1"):
        run(tmp_path)


def test_a_missing_file_leaves_no_report_behind(made, tmp_path):
    (tmp_path / "results" / "s1" / "systematic-80" / "quality.json").unlink()
    with pytest.raises(InputError, match="quality@systematic-80-s1"):
        run(tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_five_hundred_variants_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = [
        f"{m}{a}" for m in ("magnitude", "systematic", "random", "average-magnitude") for a in ("", "-global", "-sigma")
    ]
    settings = synthetic.settings(tmp_path, prune={"methods": methods, "rates": list(range(2, 86, 2))})
    assert sum(variant.rate is not None for variant in settings.variants()) == 504
    synthetic.write(tmp_path, settings)
    html = run(tmp_path)
    table = html[html.index('id="results-table"') :]
    assert table[: table.index("</table>")].count("<tr") == 1 + 504 + 3
    assert len(html) < 4_000_000
