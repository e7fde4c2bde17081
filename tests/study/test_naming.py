"""What a stage makes of the names that dvc.yaml gives it, and which names it refuses before it touches anything."""

import argparse
from pathlib import Path

import pytest

from prunelab.errors import InputError
from prunelab.study import naming


def told(*argv: str, variant: bool = True) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    if variant:
        naming.add_variant(parser, "its id")
    naming.add_seed(parser)
    parser.add_argument("--out", type=Path)
    return naming.parse(parser, list(argv))


def test_method_rate_and_seed_as_dvc_gives_them_become_one_row_and_its_folder():
    found = told("--method", "magnitude-global", "--rate", "50", "--seed", "s2", "--out", "models/@seed/@variant")
    assert (found.variant, found.seed, found.out) == (
        "magnitude-global-50",
        "s2",
        Path("models/s2/magnitude-global-50"),
    )


def test_a_recipe_may_be_given_as_an_option_or_by_hand_as_a_word():
    path = "results/energy/@seed/quality-@variant.json"
    for words in (["--variant", "depth-25-recovered-int4"], ["depth-25-recovered-int4"]):
        assert told(*words, "--out", path).out == Path("results/energy/s1/quality-depth-25-recovered-int4.json")


def test_by_hand_any_name_will_do_as_long_as_no_path_hangs_on_it():
    assert told("mine", "--out", "results/mine").variant == "mine"


@pytest.mark.parametrize(
    "argv", [[], ["wanda-50", "--method", "x", "--rate", "5"], ["--method", "wanda"], ["--rate", "50"]]
)
def test_a_row_is_named_once_and_whole(argv, capsys):
    with pytest.raises(SystemExit):
        told(*argv)
    assert "name one row" in capsys.readouterr().err


HOSTILE = ["; touch x", "$(touch x)", "`touch x`", "a\ntouch x", "../../docs", "s1/../..", "s1\n", "S1", "", "s01"]


@pytest.mark.parametrize("seed", [*HOSTILE, f"s{2**32}"])
def test_a_seed_that_is_none_is_refused_also_where_no_path_hangs_on_it(seed):
    with pytest.raises(InputError, match="seed .*: expected a tag") as error:
        told("--seed", seed, variant=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*HOSTILE[:-3], "magnitude-50\n", "magnitude-50/../../x", "magnitude-050"])
def test_a_variant_that_is_none_becomes_no_path(name):
    with pytest.raises(InputError) as error:
        told("--variant", name, "--out", "models/@seed/@variant")
    assert "\n" not in str(error.value)


def test_no_method_reaches_out_of_the_folder_of_its_seed():
    with pytest.raises(InputError, match="is no recipe"):
        told("--method", "../../docs", "--rate", "50", "--out", "models/@seed/@variant")
