"""docs/architectures.md is what the command writes today, and every cell of it is exact or a refusal."""

import html
import re

import pytest

from prunelab.errors import InputError
from prunelab.pruning import scores
from tests.helpers import architecture_checks, architecture_table, zoo

# One of each way in which the package treats an architecture: where positions come from, whether heads share keys,
# layers that are one or fused, a tied head, experts. All of them take ten minutes, which is left to the command.
SOME = (
    "OPT", "GPT-2", "GPT-J", "BLOOM", "Falcon, grouped", "Llama, tied", "Qwen2", "Gemma 3", "Phi-3", "GPTBigCode",
    "Mixtral",
)  # fmt: skip
DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def spelled_out(page: str) -> dict[str, list[str]]:
    """Architecture → its cells, with the sentences of the refusals in the place of their numbers."""
    sentences = {number: html.unescape(words) for number, words in re.findall(r"^(\d+)\. (.+)$", page, re.MULTILINE)}

    def spelled(cell: str) -> str:
        return re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"({sentences[found[0].translate(DIGITS)]})", cell)

    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in page.splitlines() if line[:2] == "| "]
    return {name: [spelled(cell) for cell in cells] for name, *cells in rows}


@pytest.mark.slow
def test_architectures_are_exact_or_refused_and_the_page_says_so():
    found = architecture_table.table(SOME)
    assert architecture_table.wrong(found) == []
    written = spelled_out(architecture_table.FILE.read_text(encoding="utf-8"))
    assert spelled_out(architecture_table.page(found)).items() <= written.items(), (
        "run python -m tests.helpers.architecture_table"
    )


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
