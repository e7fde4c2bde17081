"""Names of variants say what they are, and nothing that is none is accepted."""

import pytest

from prunelab.errors import InputError
from prunelab.recipes import variants


@pytest.mark.parametrize(
    ("identifier", "method", "allocation", "rate", "steps"),
    [
        ("dense", "dense", None, None, ()),
        ("dense-average", "dense", None, None, ("average",)),
        ("dense-best", "dense", None, None, ("best",)),
        ("dense-small", "dense", None, None, ("small",)),
        ("dense-retrained", "dense", None, None, ("retrained",)),
        ("history-threshold-50", "history-threshold", None, "50", ()),
        ("best-magnitude-80", "best-magnitude", None, "80", ()),
        ("systematic-quarter-60", "systematic-quarter", None, "60", ()),
        ("systematic-50-retrained", "systematic", None, "50", ("retrained",)),
        ("random-60-retrained-int8", "random", None, "60", ("retrained", "int8")),
        ("dense-int8", "dense", None, None, ("int8",)),
        ("magnitude-50", "magnitude", None, "50", ()),
        ("magnitude-global-50", "magnitude", "global", "50", ()),
        ("systematic-average-80", "systematic-average", None, "80", ()),
        ("systematic-sigma-sigma112", "systematic", "sigma", "sigma112", ()),
        ("wanda-2of4", "wanda", None, "2of4", ()),
        ("depth-25", "depth", None, "25", ()),
        ("mlp-width-norms-30", "mlp-width-norms", None, "30", ()),
        ("wanda-50-recovered", "wanda", None, "50", ("recovered",)),
        ("dense-bf16", "dense", None, None, ("bf16",)),
        ("dense-int4-gptq", "dense", None, None, ("int4-gptq",)),
        ("depth-25-int8", "depth", None, "25", ("int8",)),
        ("depth-25-recovered-int4", "depth", None, "25", ("recovered", "int4")),
        ("wanda-50-recovered-int8-gptq", "wanda", None, "50", ("recovered", "int8-gptq")),
        ("mlp-width-30-bf16", "mlp-width", None, "30", ("bf16",)),
        ("wanda-owl-2of4-recovered", "wanda", "owl", "2of4", ("recovered",)),
        ("mlp-width-50-recovered-int8", "mlp-width", None, "50", ("recovered", "int8")),
    ],
)
def test_an_id_says_the_whole_recipe(identifier, method, allocation, rate, steps):
    assert variants.parse(identifier) == variants.Variant(identifier, method, allocation, rate, steps)


@pytest.mark.parametrize(
    "identifier",
    [
        *("magnitude", "magnitude-0.5", "50", "Magnitude-50", "a-5-s", "", "dense-", "-50", "depth-25-", "dense-50"),
        *("magnitude_50", "magnitude-50 ", "depth-25--int8", "magnitude-50-s2", "depth-25@s1"),
    ],
)
def test_what_is_no_id_is_refused(identifier):
    with pytest.raises(InputError) as caught:
        variants.parse(identifier)
    assert repr(identifier) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("identifier", "rate"), [("magnitude-100", "100"), ("magnitude-05", "05"), ("depth-0", "0")])
def test_an_id_with_a_rate_that_is_none_is_refused(identifier, rate):
    with pytest.raises(InputError, match=f"^'{rate}' is not a rate; allowed: a whole number of percent"):
        variants.parse(identifier)


@pytest.mark.parametrize(
    ("wrong", "valid"),
    [
        ("mlp-widht-50-recoverd", "mlp-width-50-recovered"),
        ("mlp-widht-50", "mlp-width-50"),
        ("magnitud-global-50", "magnitude-global-50"),
        ("depth-25-recoverd", "depth-25-recovered"),
        ("depth-25_recovered", "depth-25-recovered"),
        ("depth-25-int8-recovered", "depth-25-recovered-int8"),  # the order
        ("depth-25-int8-int8", "depth-25-int8"),  # once each
        ("depth-25-retrained-recovered", "depth-25-recovered"),  # one way of training
        ("magnitude-50-retraned", "magnitude-50-retrained"),
        ("dense-retraind", "dense-retrained"),
        ("depth-25-int8-int4", "depth-25-int8"),  # one precision
        ("depth-25-gptq-int4", "depth-25-int4-gptq"),
        ("depth-25-int8-gptq-recovered", "depth-25-recovered-int8-gptq"),
        ("depth-25-bf16-gptq", "depth-25-bf16"),  # nothing is rounded to whole numbers there
        ("dense-bf61", "dense-bf16"),
        ("dense-int4-gpt", "dense-int4-gptq"),
        ("wnada-2of4-int", "wanda-2of4-int8"),
        ("wanda50", "wanda-50"),
        ("mlp_width-50", "mlp-width-50"),
        ("dense-int", "dense-int8"),
        ("dense-averaged", "dense-average"),
        ("dense-smal", "dense-small"),
    ],
)
def test_a_wrong_recipe_is_told_with_the_nearest_valid_one(wrong, valid):
    variants.parse(valid)
    with pytest.raises(InputError) as caught:
        variants.parse(wrong)
    assert repr(wrong) in str(caught.value) and f"did you mean {valid!r}?" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("zzz-50", "'zzz-50': there is no method 'zzz'; allowed: random, magnitude"),
        (
            "qqqqqq",
            "'qqqqqq' is no recipe; expected <method>-<rate>[-recovered|-retrained][-<precision>], such as",
        ),
        (
            "depth-25-xyz",
            "'depth-25-xyz' is no recipe; behind depth-25 come one of recovered, retrained and one of bf16, int8, "
            "int4, int8-gptq, int4-gptq, in this order, each",
        ),
        (
            "dense-xyz",
            "'dense-xyz' is no recipe; of dense there are dense-average, dense-best, dense-small, dense-",
        ),
    ],
)
def test_what_is_like_nothing_is_told_with_what_is_allowed(wrong, told):
    with pytest.raises(InputError) as caught:
        variants.parse(wrong)
    assert told in str(caught.value) and "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("identifier", "family", "prunes", "work_of_dense"),
    [
        ("dense", "dense", None, True),
        ("dense-average", "dense-average", None, True),
        ("dense-best", "dense-best", None, True),
        ("dense-retrained", "dense-retrained", None, True),
        ("random-50-retrained", "random-retrained", "mask", True),
        ("dense-small", "dense-small", None, False),
        ("dense-int8", "dense-int8", None, False),
        ("magnitude-global-50", "magnitude-global", "mask", True),
        ("wanda-2of4-recovered", "wanda-recovered", "mask", True),
        ("wanda-owl-50-recovered-int8", "wanda-owl-recovered-int8", "mask", False),
        ("depth-25", "depth", "structure", False),
        ("mlp-width-norms-30-recovered", "mlp-width-norms-recovered", "structure", False),
    ],
)
def test_a_recipe_knows_its_family_what_it_prunes_and_whether_it_does_the_work_of_dense(
    identifier, family, prunes, work_of_dense
):
    found = variants.parse(identifier)
    assert (found.family, found.prunes, found.does_the_work_of_dense) == (family, prunes, work_of_dense)


@pytest.mark.parametrize(
    ("identifier", "precision", "by_text", "same_work"),
    [
        ("dense", None, False, ()),
        ("wanda-50-recovered", None, False, ()),
        ("dense-int8", "int8", False, ()),
        ("dense-int8-gptq", "int8", True, ("dense-int8",)),
        ("wanda-50-bf16", "bf16", False, ("dense-bf16",)),
        ("wanda-50-recovered-int4", "int4", False, ("dense-int4", "dense-int4-gptq")),
        ("depth-25-int4", "int4", False, ()),
        ("depth-25-recovered-int4-gptq", "int4", True, ("depth-25-recovered-int4",)),
    ],
)
def test_a_recipe_knows_its_precision_and_what_runs_the_same_kernels(identifier, precision, by_text, same_work):
    found = variants.parse(identifier)
    assert (found.precision, found.rounds_by_text, found.same_work) == (precision, by_text, same_work)


@pytest.mark.parametrize(
    ("identifier", "beginnings"),
    [
        ("dense-int8", ["dense-int8"]),
        ("magnitude-50", ["magnitude-50"]),
        ("depth-25-int8", ["depth-25", "depth-25-int8"]),
        ("depth-25-int4-gptq", ["depth-25", "depth-25-int4-gptq"]),
        (
            "wanda-owl-2of4-recovered-int8",
            ["wanda-owl-2of4", "wanda-owl-2of4-recovered", "wanda-owl-2of4-recovered-int8"],
        ),
    ],
)
def test_a_chain_begins_with_recipes_that_are_valid_by_themselves(identifier, beginnings):
    assert variants.parse(identifier).beginnings == [variants.parse(beginning) for beginning in beginnings]


def test_rates_mean_percent_prune_rate_or_groups():
    assert variants.parse_rate(50).sparsity == 0.5
    assert variants.parse_rate("sigma112").prune_rate == 1.12
    assert variants.parse_rate("2of4").n_of_m == (2, 4)


@pytest.mark.parametrize("token", [0, 100, -5, "fifty", 0.5, True, "sigma0", "4of4", "5of4", "2:4"])
def test_a_bad_rate_is_named_with_what_is_allowed(token):
    with pytest.raises(InputError) as caught:
        variants.parse_rate(token)
    assert str(token) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_threshold_cannot_be_had_per_tensor_share():
    assert "sigma112" in variants.contradiction("sigma112", "uniform")
    assert variants.contradiction("sigma112", "sigma") is None
    assert variants.contradiction("2of4", "global")
    assert variants.contradiction("50", "uniform") is None
