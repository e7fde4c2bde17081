"""Settings of prune.further and what names its entries: the order of rows, and what is wrong told in one line."""

import pytest
from ruamel.yaml import YAML

from prunelab.errors import InputError
from prunelab.study import params
from tests.helpers import studies

YAML_1_2 = YAML(typ="safe", pure=True)
DEFAULT = studies.raw("default")
MASKS = {"methods": ["magnitude", "wanda"], "rates": [50]}


def load(folder, *further, **changes):
    """The default study with `further` beside two methods at 50 %; `changes` such as efficiency={"methods": []}."""
    raw = {**DEFAULT, "prune": DEFAULT["prune"] | MASKS | {"further": list(further)}}
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    YAML_1_2.dump(raw, folder / "params.yaml")
    return params.load(folder / "params.yaml")


def refusal(folder, *further, **changes) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, *further, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 'params.yaml'}: ")


def ids(settings) -> list[str]:
    return [variant.id for variant in settings.variants()]


def test_what_is_made_of_dense_stands_before_method_by_rate_and_the_rest_behind(tmp_path):
    further = ["depth-25-recovered", "dense-int8", "magnitude-50-recovered", "dense-average"]
    assert ids(load(tmp_path, *further)) == [
        "dense",
        "dense-int8",
        "dense-average",
        "magnitude-50",
        "wanda-50",
        "depth-25-recovered",
        "magnitude-50-recovered",
    ]


def test_a_study_of_masks_alone_has_an_empty_list(tmp_path):
    assert ids(load(tmp_path)) == ["dense", "magnitude-50", "wanda-50"]


def test_dense_small_gets_the_size_of_the_first_removed_structure_and_the_tokens_of_recovery(tmp_path):
    alone = load(tmp_path, "dense-small", "mlp-width-norms-50", "depth-25")
    assert alone.left_open() == {"dense-small": {"like": "mlp-width-norms-50", "more_tokens": 0}}
    chains = load(tmp_path, "magnitude-50-recovered", "depth-25-recovered-int8", "mlp-width-norms-50", "dense-small")
    assert chains.left_open() == {"dense-small": {"like": "depth-25", "more_tokens": 500_000}}
    assert load(tmp_path, "depth-25").left_open() == {}


@pytest.mark.parametrize(
    ("further", "line"),
    [
        (
            ["mlp-widht-30"],
            "prune.further.0: 'mlp-widht-30': there is no method 'mlp-widht' (did you mean 'mlp-width-30'?)",
        ),
        (
            ["dense-int8", "mlp-widht-50-recoverd"],
            "prune.further.1: 'mlp-widht-50-recoverd': there is no method 'mlp-widht' (did you mean "
            "'mlp-width-50-recovered'?)",
        ),
        (
            ["mlp-width"],
            "prune.further.0: 'mlp-width' is no recipe; expected <method>-<rate>[-recovered|-retrained][-<precision>]",
        ),
        (["depth-random-sigma50"], "'depth-random-sigma50': structure goes by percent, such as depth-random-25"),
        (["depth-2of4"], "'depth-2of4': structure goes by percent, such as depth-25"),
        (["dense"], "prune.further.0: 'dense' is there in every study; leave it out"),
        (["depth-25", "depth-25"], "prune.further: depth-25 stands there twice; every entry once"),
        (["wanda-50"], "prune.further: 'wanda-50' is made by methods and rates already; leave it out"),
        (
            ["dense-small", "wanda-60-recovered"],
            "prune.further: dense-small has the size of the first removed structure in this list, and there is none; "
            "add one, such as mlp-width-50",
        ),
        (["wanda-sigma112-recovered"], "prune: wanda at sigma112 is a threshold in standard deviations"),
        (["wanda-global-2of4"], "prune: wanda-global at 2of4 fixes the share of every group"),
        (["movement-50"], "prune.gradual: movement prunes while it trains; fill this section in"),
        ([50], "prune.further.0: input should be a valid string, found 50"),
    ],
)
def test_a_wrong_entry_is_told_in_one_line(tmp_path, further, line):
    assert line in refusal(tmp_path, *further)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"efficiency": {"methods": ["magnitud"]}},
            "efficiency.methods: 'magnitud' is not in prune.methods (did you mean 'magnitude'?)",
        ),
        ({"efficiency": {"methods": ["depth"]}}, "efficiency.methods: 'depth' is not in prune.methods"),
        (
            {"efficiency": {"methods": ["wanda", "wanda"]}},
            "efficiency.methods: wanda stands there twice; every entry once",
        ),
        (
            {"runtimes": {"variants": ["dence"]}},
            "runtimes.variants: 'dence' is not in this study (did you mean 'dense'?)",
        ),
        (
            {"runtimes": {"variants": ["dense-best"]}},
            "runtimes.variants: 'dense-best' is a row to compare with, which it cannot take; name dense",
        ),
        ({"deploy": {"variant": "magnitude-51"}}, "deploy.variant: 'magnitude-51' is not in this study"),
        (
            {"runtimes": {"names": ["compile", "int8"]}},
            "runtimes.names.1: 'int8' is a row now and no runtime: put dense-int8, or <variant>-int8, into "
            "prune.further",
        ),
        (
            {"runtimes": {"names": ["int8-compile"]}},
            "runtimes.names.0: 'int8-compile' is a row now and no runtime: put dense-int8, or <variant>-int8, into "
            "prune.further, name it in runtimes.variants, and take the runtime compile",
        ),
        ({"quantise": {"group": 48}}, "quantise.group: input should be 32, 64, 128 or 256, found 48"),
        ({"quantise": {"head": "bf16"}}, "quantise.head: input should be 'int8' or 'int4', found 'bf16'"),
        ({"calibrate": None}, "calibrate: wanda-50 looks at calibration text; fill this section in"),
    ],
)
def test_what_names_a_row_must_name_one_that_it_can_take(tmp_path, changes, line):
    assert line in refusal(tmp_path, "dense-best", "depth-25-int8", **changes)


def test_rows_that_can_be_taken_are(tmp_path):
    named = ["dense", "wanda-50", "depth-25-recovered", "dense-int4"]
    found = load(
        tmp_path,
        "depth-25-recovered",
        "dense-int4",
        runtimes={"variants": named},
        deploy={"variant": "depth-25-recovered"},
        efficiency={"methods": []},
    )
    assert found.runtimes.variants == named and found.efficiency.methods == []


@pytest.mark.parametrize("identifier", ["mlp-width-30", "wanda-50-recovered", "magnitude-owl-60"])
def test_a_recipe_that_looks_at_text_needs_calibration_also_when_no_method_does(tmp_path, identifier):
    masks = {"methods": ["magnitude"], "rates": [50], "further": [identifier]}
    line = refusal(tmp_path, prune=masks, calibrate=None)
    assert line == f"calibrate: {identifier} looks at calibration text; fill this section in"


def test_recipes_that_look_at_no_text_need_no_calibration(tmp_path):
    masks = {"methods": ["magnitude"], "rates": [50], "further": ["depth-random-25", "dense-int8"]}
    assert load(tmp_path, prune=masks, calibrate=None).calibrate is None


FETCHED = {
    "fetch": DEFAULT["fetch"] | {"model": {"kind": "hub", "name": "facebook/opt-125m"}},
    "train": {"start": "fetched", "architecture": None, "config": {}, "tokenizer": "fetched", "epochs": 0},
}


@pytest.mark.parametrize("identifier", ["dense-average", "mlp-width-history-30", "systematic-50-recovered"])
def test_what_needs_a_model_that_is_trained_here_is_told_when_none_is(tmp_path, identifier):
    line = refusal(tmp_path, identifier, **FETCHED)
    assert line == f"prune: {identifier} needs a model trained here, but train.epochs is 0"
    tuned = FETCHED["train"] | {"epochs": 20}  # it has a history then
    assert identifier in ids(load(tmp_path, identifier, fetch=FETCHED["fetch"], train=tuned))


def test_dense_small_of_a_fetched_model_is_refused(tmp_path):
    assert refusal(tmp_path, "dense-small", "depth-25", **FETCHED) == (
        "prune.further: dense-small is trained from scratch, which train.start: fetched is not; leave it out"
    )


def test_a_structure_among_the_methods_is_sent_to_the_other_list(tmp_path):
    line = refusal(tmp_path, prune={"methods": ["depth"]})
    assert line.startswith(
        "prune.methods.0: depth makes the model smaller and belongs into prune.further, as depth-<percent>"
    )
