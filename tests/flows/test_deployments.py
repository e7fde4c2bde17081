"""prefect.yaml and automations.yaml as files: Prefect ignores what it does not know, so every key is looked at."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from prefect.utilities.schema_tools.validation import ValidationError, validate

ROOT = Path(__file__).parents[2]


def deployments_file() -> dict:
    return yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))


def check_keys(section: dict, model, *further: str) -> None:
    """That a section holds only keys that Prefect's model of it has."""
    fields = {field.alias or name for name, field in model.model_fields.items()}
    assert section.keys() <= fields | set(further), section.keys() - fields


def check_deployments(content: dict) -> None:
    from prefect.cli.deploy import _models as known
    from prefect.workers.process import ProcessVariables

    check_keys(content, known.PrefectYamlModel, "definitions")  # `definitions` only holds YAML anchors
    for deployment in content["deployments"]:
        check_keys(deployment, known.DeploymentConfig)
        check_keys(deployment["work_pool"], known.WorkPoolConfig)
        check_keys(deployment["work_pool"]["job_variables"], ProcessVariables)
        for schedule in deployment.get("schedules", []):
            known.RawScheduleConfig.model_validate(schedule)
        if isinstance(limit := deployment.get("concurrency_limit"), dict):
            check_keys(limit, known.ConcurrencyLimitSpec)


def flow_of(deployment: dict):
    path, _, name = deployment["entrypoint"].partition(":")
    assert (ROOT / path).exists()
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_prefect_yaml_holds_only_keys_that_prefect_knows():
    content = deployments_file()
    check_deployments(content)
    assert {one["name"] for one in content["deployments"]} == {
        "study", "nightly", "coordinator", "part", "smoke",
    }  # fmt: skip
    for deployment in content["deployments"]:
        parameters = inspect.signature(flow_of(deployment).fn).parameters
        assert deployment["parameters"].keys() <= parameters.keys()
        assert deployment["work_pool"]["name"] in ("gpu", "cpu")


def check_parameters(parameters: dict, deployment: dict) -> None:
    """That the server takes these parameters for a run: it has the flow's schema. Raises ValidationError."""
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow_of(deployment).fn).model_dump_for_openapi()
    validate(parameters, schema, raise_on_error=True, ignore_required=True)


def test_parameters_are_of_the_kinds_that_the_flows_take_and_others_are_refused():
    for deployment in (deployments := deployments_file()["deployments"]):
        check_parameters(deployment["parameters"], deployment)
    check_parameters({"overrides": {"train": {"epochs": 3}}, "targets": ["quality"]}, deployments[0])
    for name, wrong in (("workers", 0), ("targets", "quality"), ("overrides", "train.epochs=3"), ("fan_out", "yes")):
        with pytest.raises(ValidationError, match=f"'{name}'"):
            check_parameters({name: wrong}, deployments[0])


@pytest.mark.parametrize(
    ("where", "key"),
    [
        (lambda content: content, "deployment"),
        (lambda content: content["deployments"][0], "parameter"),
        (lambda content: content["deployments"][0]["work_pool"], "job_variable"),
        (lambda content: content["deployments"][0]["work_pool"]["job_variables"], "workingdir"),
        (lambda content: content["deployments"][1]["concurrency_limit"], "collision"),
    ],
)
def test_a_misspelt_key_is_found_on_every_level(where, key):
    content = deployments_file()
    where(content)[key] = "x"
    with pytest.raises(AssertionError, match=key):
        check_deployments(content)


def test_a_misspelt_key_of_a_schedule_is_found():
    content = deployments_file()
    content["deployments"][1]["schedules"][0]["corn"] = "0 2 * * *"
    with pytest.raises(ValueError, match="corn"):
        check_deployments(content)


def test_the_pull_steps_exist_and_take_what_they_are_given():
    for step in deployments_file()["pull"]:
        ((name, inputs),) = step.items()
        module, _, function = name.rpartition(".")
        inputs.pop("id", None)
        inspect.signature(getattr(importlib.import_module(module), function)).bind(**inputs)


def test_every_run_has_a_working_directory_and_no_address_stands_in_the_files():
    content = deployments_file()
    assert content["pull"]
    assert all(one["work_pool"]["job_variables"]["working_dir"] for one in content["deployments"])
    for name in ("prefect.yaml", "automations.yaml"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_automations_yaml_holds_only_keys_that_prefect_knows():
    from prefect.events import actions
    from prefect.events.schemas import automations

    kinds = {"cancel-flow-run": actions.CancelFlowRun, "change-flow-run-state": actions.ChangeFlowRunState}
    content = yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    for one in content:
        check_keys(one, automations.AutomationCore)
        check_keys(one["trigger"], automations.EventTrigger)
        for action in one["actions"]:
            check_keys(action, kinds[action["type"]])
        automations.AutomationCore.model_validate(one)
    heartbeat = int(deployments_file()["definitions"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert content[1]["trigger"]["within"] >= 3 * heartbeat  # one that is lost on its way ends no run
