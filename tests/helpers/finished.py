"""A small finished study made by hand, as far as the mirror to MLflow reads it: settings, tables, dvc.lock."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def write(folder: Path, seeds: tuple[str, ...] = ("s1",)) -> None:
    """A finished study of dense, one control and two variants, as its stages would have left it.

    The losses of a further seed are a tenth higher than those of the one before.
    """
    text = (ROOT / "studies" / "default.yaml").read_text(encoding="utf-8")
    raw = yaml().load(text)
    raw["prune"] |= {"methods": ["random", "magnitude"], "rates": [50], "further": ["dense-average"]}
    raw["seeds"] = list(seeds)
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        yaml().dump(raw, file)
    (folder / "report").mkdir()
    rows = [  # variant, rate, zeros, loss, decode_ms_per_token, device; a control is not measured
        ("dense", "", 0.0, 1.5, 2.0, "d1"),
        ("dense-average", "", 0.0, 1.4, "", ""),
        ("random-50", 50, 0.5, 3.0, 2.1, "d1"),
        ("magnitude-50", 50, 0.5, 1.7, 2.0, "d1"),
    ]
    lines = ["variant,method,rate,seed,path,dense,sparsity_pruned,loss,decode_ms_per_token,device"]
    for number, tag in enumerate(seeds):
        for name, rate, zeros, loss, *measured in rows:
            seed, loss = 1337 if tag == "s1" else tag[1:], round(loss + 0.1 * number, 1)
            row = [name, name.removesuffix("-50"), rate, seed, f"{tag}/{name}", f"{tag}/dense", zeros, loss, *measured]
            lines.append(",".join(map(str, row)))
    for line in lines[1:]:
        _losses(folder / "results" / line.split(",")[4], float(line.split(",")[7]))
    (folder / "report" / "results.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "report" / "metrics.json").write_text(json.dumps({"dense": {"loss": 1.5}, "note": "x", "ok": True}))
    (folder / "report" / "recommendation.json").write_text(json.dumps(advice([name for name, *_ in rows])))
    (folder / "report" / "index.html").write_text("<h1>report</h1>")
    stages = {}
    for tag in seeds:
        history = folder / "models" / tag / "dense" / "history"
        history.mkdir(parents=True)
        (history / "curve.csv").write_text("step,epoch,train_loss,validation_loss\n100,1,2.5,2.4\n200,2,2.0,\n")
        outs = {
            f"train@{tag}": (f"models/{tag}/dense", "aa.dir"),
            f"further@dense-average-{tag}": (f"models/{tag}/dense-average", "ff.dir"),
            f"quality-further@dense-average-{tag}": (f"results/{tag}/dense-average/quality.json", "bb"),
            f"prune@random-50-{tag}": (f"models/{tag}/random-50", "cc.dir"),
            f"quality@random-50-{tag}": (f"results/{tag}/random-50/quality.json", "dd"),
        }
        stages |= {name: {"cmd": "x", "outs": [{"path": path, "md5": md5}]} for name, (path, md5) in outs.items()}
    with open(folder / "dvc.lock", "w", encoding="utf-8") as file:
        yaml().dump({"schema": "2.0", "stages": stages}, file)


def _losses(place: Path, mean: float) -> None:
    """The losses of two windows, as the stages reference and quality leave them."""
    import numpy as np
    from safetensors.numpy import save_file

    place.mkdir(parents=True)
    name = "reference" if place.name == "dense" else "windows"
    save_file({"loss": np.array([mean - 0.25, mean + 0.25])}, place / f"{name}.safetensors")


def advice(identifiers: list[str]) -> dict:
    """A recommendation of magnitude-50, which ties with dense, as far as the mirror reads it."""
    states = {"magnitude-50": "recommended", "dense": "tied"}
    return {
        "variant": "magnitude-50", "tied": ["dense"], "why": "least ms a token", "told": ["Deploy `magnitude-50`."],
        "rows": [{"variant": name, "state": states.get(name, "behind")} for name in identifiers],
        "devices": {"pi": {"variant": None}}, "rivals": {}, "comparison": "",
    }  # fmt: skip


def yaml():
    """A reader and writer of plain YAML."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True)
