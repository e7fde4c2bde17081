"""Every task offers what stages ask of it, and costs nothing to ask for."""

import inspect
import re
import subprocess
import sys

import pytest

from prunelab import tasks
from prunelab.checks import checks
from prunelab.errors import InputError
from prunelab.study import params
from tests.helpers import imports, studies
from tests.pipeline.test_pipeline import graph


def settings(**changes) -> params.Settings:
    """The smoke study with `changes` of its sections."""
    raw = studies.raw("smoke")
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) and raw[key] else value
    return params.Settings.model_validate(raw)


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_task_offers_exactly_what_the_contract_says_by_the_same_arguments(name):
    module = tasks.of(name)
    offered = {key for key, value in vars(module).items() if not key.startswith("_") and not inspect.ismodule(value)}
    assert offered - {"Headline", "Paper"} == set(tasks.CONTRACT)
    written = dict(re.findall(r"^    (\w+)\(([\w, ]+)\)", tasks.__doc__, re.MULTILINE))
    assert {"HEADLINE", "MODELS", *written} == set(tasks.CONTRACT)
    for function, arguments in written.items():
        assert list(inspect.signature(getattr(module, function)).parameters) == arguments.split(", "), function
    assert module.HEADLINE.diff == f"{module.HEADLINE.column}_diff"
    assert module.MODELS in ("causal", "picture")


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_task_is_light_to_import(name):
    code = f"import sys; from prunelab import tasks; tasks.of({name!r}); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=imports.ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "PIL", "numpy"} & set(found.stdout.split())


def test_a_task_that_is_not_there_is_told_with_the_nearest():
    text = studies.text("smoke").replace("task: language ", "task: langage ")
    with pytest.raises(InputError, match=r"task: there is no task 'langage' \(did you mean 'language'\?\); allowed: "):
        params.of_text(text, "params.yaml")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"fetch": {"text": None}}, "fetch.text: null, but task is language, which learns from a text; fill it in"),
        ({"fetch": {"split": None}}, "fetch.split: null, but task is language"),
        ({"prune": {"towers": ["language", "vision"]}}, "prune.towers: a model of text has no other than language"),
    ],
)
def test_what_a_language_model_cannot_do_without_or_with_is_told_before_anything_runs(changes, line):
    with pytest.raises(InputError, match=f"^{line}"):
        checks.check(settings(**changes))


def test_an_edit_of_one_task_is_no_edit_of_another_s_study():
    """What a stage lists of prunelab/tasks is the contract, and the folder of the study's own task."""
    listing = 0
    for name, stage in graph().items():
        listed = {dep for dep in stage["deps"] if dep.startswith(imports.TASKS)}
        assert listed in (set(), {imports.ANY_TASK, f"{imports.TASKS}/__init__.py"}), name
        params = {one for one in stage.get("params", []) if isinstance(one, str)}
        assert not listed or stage.get("always_changed") or {"task", "price"} <= params, name
        listing += bool(listed)
    assert listing >= 9


@pytest.mark.parametrize("name", tasks.NAMES)
def test_no_other_room_asks_which_task_it_is(name):
    asking = re.compile(rf"task *[!=]= *[\"']|[\"']{name}[\"'] *[!=]= *\S*task")
    for package in ("prunelab", "stages"):
        for path in (imports.ROOT / package).rglob("*.py"):
            if imports.TASKS not in path.as_posix():
                assert not asking.search(path.read_text(encoding="utf-8")), path
