"""Beginnings that recipes have in common: made once, known by all that decides them, never taken for another."""

import contextlib
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from prunelab.disk.files import write_json
from prunelab.errors import InputError
from prunelab.making import kept
from prunelab.recipes import variants
from prunelab.recipes.variants import parse
from tests.helpers import imports, recipes
from tests.pipeline.test_pipeline import graph

CHAINS = ("depth-50-recovered", "depth-50-int8")  # both begin with depth-50, which is no row


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """Just enough of a dense model, a text and a calibration for a key; no step is really done here."""
    monkeypatch.chdir(tmp_path)
    Path("models/dense").mkdir(parents=True)
    Path("models/dense/model.safetensors").write_text("the weights")
    write_json("models/calibration/calibration.json", {"hash": "a"})
    write_json("data/text/manifest.json", {"parts": {"train": {"sha256": "b"}}})


def write(content: str, log: list | None = None):
    """A step that writes `content` into a folder, and notes in `log` that it was done."""

    def step(place: Path) -> None:
        if log is not None:
            log.append(content)
        Path(place).mkdir(parents=True)
        (Path(place) / "weights").write_text(content)

    return step


def begin(given, identifier: str = "depth-50", content: str = "made") -> tuple[bool, str]:
    """Whether the beginning had to be made, and what is in it."""
    log = []
    with kept.beginning(given, parse(identifier), write(content, log)) as place:
        return bool(log), (place / "weights").read_text()


def results() -> list[str]:
    """The kept results: names of folders in checkpoints/beginnings."""
    return sorted(path.name for path in kept.FOLDER.iterdir() if path.is_dir())


def test_a_beginning_that_two_rows_need_is_made_once_and_kept():
    given = recipes.given(*CHAINS)
    assert begin(given) == (True, "made")
    assert begin(given, content="again") == (False, "made")
    assert len(results()) == 1


def test_a_beginning_that_one_row_needs_goes_when_that_is_done():
    assert begin(recipes.given("depth-50-recovered")) == (True, "made")
    assert results() == []


def test_a_beginning_that_is_a_row_is_taken_from_it_and_the_other_way_round():
    given = recipes.given("depth-50", "depth-50-recovered")
    log = []
    kept.row(given, parse("depth-50"), Path("models/depth-50"), write("row", log))
    assert begin(given) == (False, "row")
    shutil.rmtree("models/depth-50")  # as dvc does before it makes a row again
    kept.row(given, parse("depth-50"), Path("models/depth-50"), write("row", log))
    assert log == ["row"] and Path("models/depth-50/weights").read_text() == "row"


def test_a_row_is_found_also_by_a_recipe_that_is_added_later():
    log = []
    kept.row(recipes.given("depth-50"), parse("depth-50"), Path("models/depth-50"), write("row", log))
    assert begin(recipes.given("depth-50", "depth-50-recovered")) == (False, "row")


def test_a_row_that_was_made_anew_with_another_setting_is_not_taken_for_the_old_one():
    """Its files have the same names and sizes: the weights of another seed, say."""
    rows = ("depth-50", "depth-50-recovered")
    old, new = recipes.given(*rows), recipes.given(*rows, structure={"round_to": 4})
    for given, content in ((old, "old"), (new, "new")):
        shutil.rmtree("models/depth-50", ignore_errors=True)
        kept.row(given, parse("depth-50"), Path("models/depth-50"), write(content))
    assert begin(old, content="old again") == (True, "old again")
    assert begin(new) == (False, "new")


@pytest.mark.parametrize(
    "broken", ["", "[]", '{"folder": "models/depth-50"}', '{"folder": "gone", "files": {"a": "b"}}']
)
def test_a_note_that_says_nothing_only_costs_the_work_again(broken):
    given = recipes.given("depth-50", "depth-50-recovered")
    kept.row(given, parse("depth-50"), Path("models/depth-50"), write("row"))
    (note,) = kept.FOLDER.glob("*.json")
    note.write_text(broken)
    assert begin(given) == (True, "made")


def test_a_row_with_a_file_missing_is_not_taken():
    given = recipes.given("depth-50", "depth-50-recovered")
    kept.row(given, parse("depth-50"), Path("models/depth-50"), write("row"))
    Path("models/depth-50/weights").unlink()
    assert begin(given) == (True, "made")


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": {"round_to": 4}},
        {"prune": {"further": list(CHAINS), "checkpoint": "best"}},
        {"prune": {"further": list(CHAINS), "scope": "mlp"}},
        {"calibrate": {"samples": 7}},
        {"train": recipes.TRAIN | {"learning_rate": 2e-3}},
        {"seed": 1},
    ],
)
def test_another_setting_makes_it_anew(changes):
    assert begin(recipes.given(*CHAINS)) == (True, "made")
    assert begin(recipes.given(*CHAINS, **changes), content="other") == (True, "other")
    assert begin(recipes.given(*CHAINS)) == (False, "made")


def test_another_seed_makes_it_anew():
    seeds = {"seeds": ["s1", "s2"]}
    assert begin(recipes.given(*CHAINS, **seeds)) == (True, "made")
    assert begin(recipes.given(*CHAINS, tag="s2", **seeds), content="s2") == (True, "s2")
    assert begin(recipes.given(*CHAINS)) == (False, "made"), "a seed that is added changes no other's"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("models/dense/model.safetensors", "the Weights"),
        ("models/calibration/calibration.json", '{"hash": "c"}'),
        ("data/text/manifest.json", '{"parts": {"train": {"sha256": "d"}}}'),
    ],
)
def test_another_dense_model_calibration_or_text_makes_it_anew(path, content):
    assert begin(recipes.given(*CHAINS)) == (True, "made")
    Path(path).write_text(content)
    assert begin(recipes.given(*CHAINS), content="other") == (True, "other")


def test_other_code_or_another_library_makes_it_anew(monkeypatch):
    assert begin(recipes.given(*CHAINS)) == (True, "made")
    with monkeypatch.context() as patch:
        patch.setattr(kept, "code_of", lambda task: "another")
        assert begin(recipes.given(*CHAINS), content="other") == (True, "other")
    monkeypatch.setattr(kept, "version", lambda name: "9.9.9")
    assert begin(recipes.given(*CHAINS), content="newer") == (True, "newer")


def test_the_code_that_is_known_is_that_of_the_rooms_that_the_stage_is_made_of(tmp_path):
    rooms = {path.removeprefix("prunelab/") for path in imports.code_of("further") if path.startswith("prunelab/")}
    beside = {"disk", "energy", "errors.py", "interpreter.py", "stats.py", "data", "tasks/__init__.py"}
    assert rooms - beside == {*kept.ROOMS, "tasks/${task}"}
    assert rooms == {p.removeprefix("prunelab/") for p in graph()["further"]["deps"] if p.startswith("prunelab/")}


def test_another_task_or_an_edit_of_its_folder_is_other_code(tmp_path, monkeypatch):
    assert kept.code_of("language") != kept.code_of("price")
    house = tmp_path / "prunelab"
    (house / "making").mkdir(parents=True)
    (house / "tasks" / "price" / "seeing").mkdir(parents=True)
    monkeypatch.setattr(kept, "__file__", str(house / "making" / "kept.py"))
    before = [kept.code_of.__wrapped__(task) for task in ("language", "price")]
    (house / "tasks" / "price" / "seeing" / "a.py").write_text("# an edit")
    after = [kept.code_of.__wrapped__(task) for task in ("language", "price")]
    assert after[0] == before[0] and after[1] != before[1]


def test_recovery_decides_only_what_is_recovered():
    rows = ("depth-50-recovered", "depth-50-recovered-int8", "depth-50-int8")
    before, after = recipes.given(*rows), recipes.given(*rows, recover=recipes.RECOVER | {"tokens": 512})
    for identifier in ("depth-50", "depth-50-recovered"):
        assert begin(before, identifier) == (True, "made")
    assert begin(after, "depth-50") == (False, "made")
    assert begin(after, "depth-50-recovered", "longer") == (True, "longer")


@pytest.mark.parametrize(
    "changes",
    [
        {"prune": {"methods": ["magnitude", "wanda"], "rates": [20, 50], "further": [*CHAINS, "dense-best"]}},
        {"quality": {"context": 32}, "report": {"title": "Another"}, "study": "another"},
        {"efficiency": {"methods": [], "seconds": 1.0}},
    ],
)
def test_what_decides_nothing_about_it_leaves_it(changes):
    assert begin(recipes.given(*CHAINS)) == (True, "made")
    assert begin(recipes.given(*CHAINS, **changes)) == (False, "made")


def test_a_step_that_fails_leaves_nothing_and_the_next_one_tries_again():
    def fails(place):
        raise InputError("no room")

    given = recipes.given(*CHAINS)
    with pytest.raises(InputError, match="no room"):
        with kept.beginning(given, parse("depth-50"), fails):
            raise AssertionError("began with nothing")
    with pytest.raises(InputError, match="no room"):
        kept.row(given, parse("depth-50-recovered"), Path("models/x"), fails)
    assert results() == [] and not list(kept.FOLDER.glob("*.json")) and not Path("models/x").exists()
    assert begin(given) == (True, "made")


def test_what_follows_may_fail_without_losing_the_beginning():
    given = recipes.given("depth-50-recovered")
    with contextlib.suppress(InputError), kept.beginning(given, parse("depth-50"), write("made")):
        raise InputError("recovery failed")
    assert begin(given) == (False, "made")
    assert results() == []


def _begin_in_a_process(barrier, log: str) -> None:
    def slow(place: Path) -> None:
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.5)
        write("made")(place)

    barrier.wait()
    with kept.beginning(recipes.given(*CHAINS), parse("depth-50"), slow) as place:
        assert (place / "weights").read_text() == "made"
        with open(log, "a") as file:
            file.write("taken\n")


def test_of_two_processes_at_once_one_makes_it_and_the_other_waits():
    context = multiprocessing.get_context("fork")  # no tensor is touched, and a fresh process would import for seconds
    barrier = context.Barrier(2)
    both = [context.Process(target=_begin_in_a_process, args=(barrier, "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert Path("log").read_text().split() == ["made", "taken", "taken"]


def test_only_so_many_are_kept_and_none_that_is_in_use_goes(monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2)
    rows = [f"mlp-width-norms-{rate}-{step}" for rate in (20, 30, 40, 50) for step in ("recovered", "int8")]
    given = recipes.given(*rows)
    with kept.beginning(given, parse("mlp-width-norms-20"), write("made")) as used:
        os.utime(used, (0, 0))  # the one that was used longest ago
        for rate in (30, 40, 50):
            begin(given, f"mlp-width-norms-{rate}")
            time.sleep(0.01)
        assert (used / "weights").read_text() == "made"
        assert len(results()) == 3
    assert begin(given, "mlp-width-norms-40") == begin(given, "mlp-width-norms-50") == (False, "made")
    assert len(results()) == 2, "what was in use goes later"
    assert begin(given, "mlp-width-norms-30") == (True, "made")


def test_a_beginning_that_others_use_does_not_block_who_takes_it_too():
    given = recipes.given(*CHAINS, "depth-50")
    with kept.beginning(given, parse("depth-50"), write("made")):
        assert begin(given) == (False, "made")
        kept.row(given, parse("depth-50"), Path("models/depth-50"), write("row"))
    assert Path("models/depth-50/weights").read_text() == "made"


def test_the_steps_of_dense_small_begin_with_the_first_removed_structure():
    settings = recipes.settings("magnitude-60-recovered", "depth-50-recovered", "dense-small")
    assert [one.id for one in kept.beginnings(settings, parse("dense-small"))] == ["depth-50", "dense-small"]
    assert kept.shared(settings, parse("depth-50"))
    assert not kept.shared(settings, parse("dense-small")) and not kept.shared(settings, parse("magnitude-60"))
    assert kept.beginnings(settings, variants.parse("magnitude-60-recovered"))[0].id == "magnitude-60"
