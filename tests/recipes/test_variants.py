"""Names of variants say what they are, and nothing that is none is accepted."""

import pytest

from prunelab.errors import InputError
from prunelab.recipes import variants


@pytest.mark.parametrize(
    ("identifier", "method", "allocation", "rate", "seed_tag", "dense"),
    [
        ("magnitude-50", "magnitude", None, "50", None, "dense"),
        ("magnitude-global-50", "magnitude", "global", "50", None, "dense"),
        ("systematic-average-80-s2", "systematic-average", None, "80", "s2", "dense-s2"),
        ("systematic-sigma-sigma112", "systematic", "sigma", "sigma112", None, "dense"),
        ("wanda-2of4", "wanda", None, "2of4", None, "dense"),
    ],
)
def test_an_id_says_method_allocation_rate_and_seed(identifier, method, allocation, rate, seed_tag, dense):
    assert variants.parse(identifier) == variants.Variant(identifier, method, allocation, rate, seed_tag, dense)


@pytest.mark.parametrize("identifier", ["magnitude", "magnitude-0.5", "magnitude-100", "50", "Magnitude-50", "a-5-s"])
def test_what_is_no_id_is_refused(identifier):
    with pytest.raises(InputError):
        variants.parse(identifier)


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
