"""A study of as many variants as one likes whose stages compute nothing, for `benchmarks/scaling.py`.

The graph is this project's own dvc.yaml with all its dependencies, parameters and outputs; only the commands are
replaced. Each stage of a variant waits and writes its small outputs, all others only write them.
"""

from pathlib import Path

from ruamel.yaml import YAML

from prunelab.errors import InputError
from prunelab.study import params
from tests.helpers import imports, synthetic, workspace

# Masks by scores that are there already: what a study of very many variants is made of, and what runs side by side.
METHODS = (
    "random", "magnitude", "average-magnitude", "systematic", "systematic-average", "best-magnitude", "taylor",
    "magnitude-global", "average-magnitude-global", "systematic-global",
)  # fmt: skip
RATES = 99  # 1 to 99 percent
WAITING = ("prune", "quality")  # the stages a variant; there are no others, because nothing is timed


def shape(variants: int) -> tuple[int, int, int]:
    """(methods, rates, seeds) whose product is `variants`, of as few seeds as can be. Raises InputError."""
    for seeds in range(1, RATES + 1):
        for methods in range(1, len(METHODS) + 1):
            rates, rest = divmod(variants, methods * seeds)
            if rest == 0 and 1 <= rates <= RATES:
                return methods, rates, seeds
    raise InputError(
        f"--variants {variants}: expected at most {len(METHODS)} methods x {RATES} rates x some seeds; "
        "take a round number, such as 1000"
    )


def settings(folder: Path, variants: int, timed: bool) -> params.Settings:
    """Write a params.yaml of that many pruned variants, and nothing further; timed: whether they are measured too."""
    methods, rates, seeds = shape(variants)
    names = list(METHODS[:methods])
    return synthetic.settings(
        folder,
        prune={"methods": names, "rates": list(range(1, rates + 1)), "further": [], "cells": []},
        seeds=[f"s{number}" for number in range(1, seeds + 1)],
        efficiency={"methods": names if timed else []},
        runtimes={"variants": []},
    )


def make(folder: Path, variants: int, seconds: float) -> Path:
    """A clone of this repository with such a study, none of whose stages has run; seconds: how long each stage of a
    variant waits."""
    workspace.make(folder)
    settings(folder, variants, timed=False)
    (folder / "written.json").write_text("{}\n", encoding="utf-8")
    yaml = YAML()
    graph = yaml.load(folder / "dvc.yaml")
    for name, stage in graph["stages"].items():
        body = stage.get("do", stage)
        outs = [out if isinstance(out, str) else next(iter(out)) for out in body.get("outs", [])]
        steps = [f"sleep {seconds:g}"] if name in WAITING else []
        steps += [f"mkdir -p $(dirname {out}) && cp written.json {out}" for out in outs]
        body["cmd"] = " && ".join(steps) or "true"
    yaml.dump(graph, folder / "dvc.yaml")
    return folder


def write_lock(folder: Path, study: params.Settings) -> None:
    """A dvc.lock in `folder` as large as one of this study, which is what a mirror of it reads: the entries that the
    graph asks for, the hashes made up."""
    import yaml as fast  # as MLflow brings it; ruamel's writer takes minutes for a thousand variants

    stages = YAML(typ="safe").load(workspace.ROOT / "dvc.yaml")["stages"]
    raw = YAML(typ="safe").load(folder / "params.yaml")
    entries = {}
    for tag in study.seeds:
        for variant in (one for one in study.variants() if one.rate is not None):
            for kind in (*WAITING, "efficiency"):
                method, _, rate = variant.id.rpartition("-")
                words = {"${item.method}-${item.rate}": variant.id, "${item.seed}": tag, "${task}": study.task}
                words["${item}"] = f"--method {method} --rate {rate} --seed {tag}"
                entries[f"{kind}@{variant.id}-{tag}"] = _entry(stages[kind], words, raw)

    class Plain(fast.CSafeDumper):
        def ignore_aliases(self, data) -> bool:
            return True  # settings that many entries hold are written out in each, as DVC does

    with open(folder / "dvc.lock", "w", encoding="utf-8") as file:
        fast.dump({"schema": "2.0", "stages": entries}, file, Dumper=Plain, sort_keys=False)


def _entry(stage: dict, words: dict[str, str], raw: dict) -> dict:
    """One stage's in dvc.lock; words: what stands for what its template says."""

    def filled(text: str) -> str:
        for template, word in words.items():
            text = text.replace(template, word)
        return text

    def held(path: str) -> dict:
        return {"path": filled(path), "hash": "md5", "md5": 32 * "0", "size": 1000}

    return {
        "cmd": filled(stage["cmd"]),
        "deps": [held(path) for path in stage["deps"]],
        "params": {"params.yaml": {name: _value(raw, name) for name in imports.settings_of(stage)}},
        "outs": [held(path) for path in stage["outs"]],
    }


def _value(raw: dict, name: str):
    """`train.epochs` of the settings."""
    for part in name.split("."):
        raw = raw[part]
    return raw
