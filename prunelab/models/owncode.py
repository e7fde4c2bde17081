"""A model's own Python code: run only where the study grants the commit that it came with.

`fetch.model.remote_code: <commit>` names the commit of the model's repository whose code the user has read. The stage
fetch then brings the code with the model and leaves a mark in its folder, which travels with every variant. The mark by
itself grants nothing, because whoever sends a folder could write one: code runs where the params.yaml at hand names the
same commit.
"""

from pathlib import Path

from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError

MARK = "remote_code.json"
CODE = "*.py"


def mark(folder, commit: str) -> None:
    """Note in a fetched folder where its code is from."""
    write_json(Path(folder) / MARK, {"commit": commit})


def is_marked(folder) -> bool:
    return (Path(folder) / MARK).is_file()


def granted(folder) -> bool:
    """Whether the code in `folder` may be run; False of a model without a mark, which is nearly every one.

    Raises InputError where there is a mark, and the params.yaml of the current directory doesn't name its commit.
    """
    if not is_marked(folder):
        return False
    from prunelab.study import params

    commit = read_json(Path(folder) / MARK).get("commit")
    model = params.load().fetch.model
    if model is None or model.remote_code is None or model.remote_code != commit:
        raise InputError(
            f"{folder}: holds Python code of its own, of commit {commit}; it is run where fetch.model.remote_code in "
            "params.yaml names that commit, after you have read it"
        )
    return True


def is_own(config) -> bool:
    """Whether `config` is of a class that came with a model, and not of the library."""
    return type(config).__module__.startswith("transformers_modules")


def class_of(config):
    """The model's class that came with `config`."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(config.auto_map[auto_name(config)], config._name_or_path)


def auto_name(config) -> str:
    """The library's Auto class that `config` says its own class stands for.

    Raises InputError where it stands for none that is used here.
    """
    known = getattr(config, "auto_map", None) or {}
    for name in ("AutoModelForImageTextToText", "AutoModelForCausalLM"):
        if name in known:
            return name
    raise InputError(f"{config.model_type}: expected code of a causal language model, found that of {', '.join(known)}")
