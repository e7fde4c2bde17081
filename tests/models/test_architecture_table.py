"""docs/architectures.md is what the command writes today, and every cell of it is exact or a refusal."""

import pytest

from prunelab.errors import InputError
from prunelab.pruning import scores
from tests.helpers import architecture_checks, architecture_table, zoo


@pytest.mark.slow
def test_every_architecture_is_exact_or_refused_and_the_page_says_so():
    found = architecture_table.table()
    assert architecture_table.wrong(found) == []
    page = architecture_table.FILE.read_text(encoding="utf-8")
    assert page == architecture_table.page(found), "run python -m tests.helpers.architecture_table"


def test_the_list_has_the_architectures_that_the_page_promises():
    assert len(zoo.ARCHITECTURES) >= 28
    page = architecture_table.FILE.read_text(encoding="utf-8")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.count(" | ") == 13]
    assert rows == ["architecture", *zoo.ARCHITECTURES]


def test_cells_name_origins_only_where_they_differ_and_number_their_sentences():
    exact, refused = architecture_table.Found("exact"), architecture_table.Found("refused", "no heads")
    sentences = ["no past"]
    assert architecture_table._cell({"trained": exact, "fetched": exact}, sentences) == "exact"
    assert architecture_table._cell({"trained": refused, "fetched": refused}, sentences) == "refused ²"
    told = architecture_table._cell({"trained": exact, "fetched": refused}, sentences)
    assert told == "trained here: exact, fetched: refused ²"
    assert sentences == ["no past", "no heads"]


def test_only_an_input_error_is_a_refusal():
    def judged(raised):
        def check():
            raise raised

        return architecture_table._judge(check)

    assert architecture_table._judge(lambda: None) == ("exact", "")
    assert architecture_table._judge(lambda: "macs_per_token: unknown") == ("refused", "macs_per_token: unknown")
    assert judged(InputError("no\n heads")) == ("refused", "no heads")
    assert judged(AssertionError("2 of 9 differ")) == ("wrong", "2 of 9 differ")
    assert judged(KeyError("lm_head")).state == "wrong"


@pytest.mark.slow
def test_a_mask_of_the_wrong_half_is_neither_exact_nor_refused(monkeypatch):
    monkeypatch.setattr(architecture_table, "COLUMNS", {"masks": architecture_checks.masks})
    monkeypatch.setitem(scores.SCORES, "magnitude", lambda layer: -layer.weight.abs())
    row = architecture_table.row_of("Llama")
    assert {one.state for one in row["masks"].values()} == {"wrong"}
    lines = architecture_table.wrong({"Llama": row})
    assert lines[0].startswith("Llama: masks (trained here): magnitude-50: 14 of 21 parameters differ, such as model.")
    assert len(lines) == 2
