"""A study's files without a study: written exactly in the formats of the contract, with numbers known beforehand.

Plain magnitude costs `0.5·s⁴` nats at sparsity s, history half of that, random ten times as much; every window of text
has its own difficulty, the same for all models, plus a little noise, so that paired differences are sharp. A further
seed adds a known wobble (`seed_wobble`), so that the spread over seeds is known beforehand too.
"""

import json
import math
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from prunelab.recipes.variants import QUANTISED, Variant
from prunelab.study import params

COST = {"random": 10.0, "magnitude": 1.0, "average-magnitude": 0.9, "systematic": 0.5, "systematic-average": 0.45}
DENSE_LOSS, DENSE_BYTES, PARAMETERS, PRUNABLE, WINDOWS = 1.55, 3_300_000, 820_000, 790_000, 400
STORED = {"bf16": 1_650_000, "int8": 1_200_000, "int4": 700_000}  # bytes of the whole dense model
ROUNDING = {"bf16": 0.0001, "int8": 0.002, "int8-gptq": 0.001, "int4": 0.02, "int4-gptq": 0.01}  # nats that it costs
UNPRUNED = {"dense": 0.0, "dense-average": -0.012, "dense-best": -0.001, "dense-small": 0.02}
UNPRUNED |= {f"dense-{precision}": cost for precision, cost in ROUNDING.items()}
FASTER = {"depth": 0.75, "mlp-width": 0.85}  # decode ratio of what is really smaller
HASH = "ab" * 32
ROOT = Path(__file__).parents[2]
TWO_METHODS = {"methods": ["magnitude", "systematic"], "rates": [50, 60, 80]}


def settings(folder: Path, **changes) -> params.Settings:
    """The default study, with `changes` such as `seeds=["s1", "s2"]` or `prune={"rates": [50]}`.

    Unless they say otherwise, nothing but controls is made beside method × rate, and every method's masks are timed, so
    that every row has an efficiency.json of its own.
    """
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(ROOT / "studies" / "default.yaml")  # params.yaml may hold the study that runs here
    content["prune"]["further"] = ["dense-average", "dense-best"]
    for key, value in changes.items():
        content[key] = (content[key] or {}) | value if isinstance(value, dict) else value
    if "methods" not in changes.get("efficiency", {}):
        content["efficiency"]["methods"] = content["prune"]["methods"]
    folder.mkdir(parents=True, exist_ok=True)
    yaml.dump(content, folder / "params.yaml")
    return params.load(folder / "params.yaml")


def excess_loss(variant: Variant) -> float:
    """Nats above dense of the first seed. Recovery takes back half, a precision adds what it costs dense."""
    if variant.rate is None:
        return UNPRUNED[variant.id]
    half = 0.5 if "recovered" in variant.steps else 1
    added = ROUNDING[variant.steps[-1]] if variant.precision else 0
    return half * COST.get(variant.method, 0.8) * 0.5 * sparsity_of(variant.rate) ** 4 + added


def seed_wobble(variant: Variant, number: int) -> float:
    """What the `number`-th further seed (the first is 0) adds to the excess loss, nats."""
    return 0.003 * number * (sparsity_of(variant.rate) if variant.rate else abs(UNPRUNED[variant.id]))


def sparsity_of(rate: str) -> float:
    """60 → 0.6; sigma112 → erf of 1.12 x 0.6028 / sqrt 2, what a normal distribution loses; 2of4 → 0.5."""
    if rate.isdigit():
        return int(rate) / 100
    if rate.startswith("sigma"):
        return math.erf(int(rate[5:]) / 100 * 0.6028 / math.sqrt(2))
    zeros, group = rate.split("of")
    return int(zeros) / int(group)


def write(folder: Path, study: params.Settings) -> tuple[Path, Path]:
    """All files of `study` under `folder`; returns its results and models folders."""
    results, models = folder / "results", folder / "models"
    difficulty = np.random.default_rng(0).normal(DENSE_LOSS, 0.3, WINDOWS)
    for number, tag in enumerate(study.seeds):
        for variant in study.variants():
            place, windows = results / tag / variant.id, difficulty + 0.004 * number
            _quality(place, variant, tag, windows, excess_loss(variant) + seed_wobble(variant, number))
            if study.timed_as(variant) is None:
                _json(place / "efficiency.json", _efficiency(variant, tag))
            if variant.rate is not None:
                _json(models / tag / variant.id / "sparsity.json", _sparsity(study, variant))
            if variant.precision in QUANTISED:
                _json(models / tag / variant.id / "quantised.json", _quantised(study, variant))
        _history(models / tag / "dense" / "history")
    _json(results / "device.json", {"id": "cpu-2-cores-3f9a", "cpu": "A processor", "cores": 2, "gpu": None})
    return results, models


def advise(settings: params.Settings, results_folder: Path, models: Path) -> dict:
    """The recommendation of a study that lies in these folders, as the stage recommend makes it."""
    from prunelab.report import results
    from stages import recommend

    return recommend.of(results.read(settings, results_folder, models))


def _generator(variant: Variant, tag: str):
    """Noise of a row's own; that of the first seed doesn't depend on how many there are."""
    return np.random.default_rng(list((variant.id if tag == params.FIRST_SEED else f"{variant.id}-{tag}").encode()))


def _quality(place: Path, variant: Variant, tag: str, dense, excess: float) -> None:
    """quality.json, and the loss of every window; `dense`: those of the dense model of this seed, (WINDOWS,) nats."""
    from safetensors.numpy import save_file

    spread = 0.0 if variant.id == "dense" else 0.02
    losses = dense + excess + _generator(variant, tag).normal(0, spread, WINDOWS)
    half = 1.97 * spread / math.sqrt(WINDOWS)
    difference = float(np.mean(losses - dense))
    _json(
        place / "quality.json",
        {
            "variant": variant.id, "split": "test", "text_sha256": HASH, "context": 64, "windows": WINDOWS,
            "tokens": WINDOWS * 63, "bytes": WINDOWS * 64, "loss": float(losses.mean()),
            "perplexity": math.exp(losses.mean()), "bits_per_byte": float(losses.mean()) / math.log(2),
            "loss_diff": difference, "loss_diff_lo": difference - half, "loss_diff_hi": difference + half,
            "kl_to_dense": max(0.0, 0.8 * excess), "top1_agreement": min(1.0, max(0.05, 1 - excess)),
            "dtype": "bf16" if variant.precision == "bf16" else "fp32",
        },
    )  # fmt: skip
    save_file({"loss": losses}, place / f"{'windows' if spread else 'reference'}.safetensors")


def _efficiency(variant: Variant, tag: str) -> dict:
    work = FASTER.get(variant.method, 1.0)  # how much of the dense model's work is left
    ratio = 1.0 if variant.id == "dense" else work * float(1 + _generator(variant, tag).normal(0, 0.006))
    parameters = PARAMETERS if work == 1 else round(work * PARAMETERS)
    zeros = PRUNABLE * sparsity_of(variant.rate) if variant.prunes == "mask" else 0
    return {
        "variant": variant.id, "device": "cpu-2-cores-3f9a", "runtime": "eager", "dtype": "float32",
        "threads": 2, "parameters": parameters, "nonzero_parameters": round(parameters - zeros),
        "dense_bytes": round(work * DENSE_BYTES), "packed_bytes": _packed(variant),
        "macs_per_token": round(work * 799_000), "prefill_ms": 4.1, "prefill_ms_p10": 4.0, "prefill_ms_p90": 4.6,
        "prefill_ms_lo": 4.02, "prefill_ms_hi": 4.2, "decode_ms_per_token_lo": 2.35 * ratio,
        "decode_ms_per_token_hi": 2.46 * ratio,
        "decode_ms_per_token": 2.4 * ratio, "decode_ms_per_token_p10": 2.3 * ratio,
        "decode_ms_per_token_p90": 2.9 * ratio, "prefill_ratio": ratio, "prefill_ratio_lo": ratio - 0.02,
        "prefill_ratio_hi": ratio + 0.02, "decode_ratio": ratio, "decode_ratio_lo": ratio - 0.014,
        "decode_ratio_hi": ratio + 0.015, "decode_verdict": "no difference" if work == 1 else "faster",
        "decode_smallest_effect": 0.015, "unreliable": False, "peak_memory_bytes": 412_000_000,
        "peak_memory_bytes_lo": 411_000_000, "peak_memory_bytes_hi": 413_000_000,
        "decode_j_per_token": 0.067 * ratio, "decode_j_per_token_lo": 0.066 * ratio,
        "decode_j_per_token_hi": 0.068 * ratio, "prefill_j_per_token": 0.004,
        "energy_provenance": {"cpu": "cpu_load_model", "gpu": "none", "ram": "model"},
        "energy_estimated": True, "gco2_per_million_tokens": 6.4 * ratio, "grams_per_kwh": 344.0,
        "litres_per_million_tokens": 0.0359 * ratio, "litres_per_kwh": 1.93, "rounds": 40, "dropped_rounds": 3,
    }  # fmt: skip


def _sparsity(study: params.Settings, variant: Variant) -> dict:
    sparsity = sparsity_of(variant.rate)
    zeros = round(sparsity * PRUNABLE)
    record = {
        "variant": variant.id, "method": variant.method, "score": "magnitude", "keep": "final",
        "allocation": variant.allocation or study.prune.allocation, "scope": "blocks", "checkpoint": "last",
        "seed": 1337, "rate": variant.rate, "target_sparsity": sparsity, "sparsity_pruned": zeros / PRUNABLE,
        "sparsity_all": zeros / PARAMETERS, "prune_rate": 1.1, "parameters": PARAMETERS,
        "nonzero_parameters": PARAMETERS - zeros, "scope_parameters": PRUNABLE, "dense_bytes": DENSE_BYTES,
        "packed_bytes": _packed(variant), "history": None, "calibration": None,
        "layers": [{"name": "transformer.h.0.attn.c_attn.weight", "block": 0, "role": "attention",
                    "shape": [128, 384], "zeros": 1, "sparsity": 0.5, "prune_rate": 1.1}],
    }  # fmt: skip
    if "recovered" in variant.steps:
        record["recovery"] = {
            "from": variant.beginnings[0].id, "tokens": study.recover.tokens, "source": study.recover.source,
            "parameters": study.recover.parameters, "learning_rate": study.recover.learning_rate,
            "validation_loss_before": 1.9, "validation_loss_after": 1.7,
        }  # fmt: skip
    return record


def _quantised(study: params.Settings, variant: Variant) -> dict:
    return {
        "variant": variant.id, "format": "prunelab-quantised-1", "precision": variant.precision, "layers": 16,
        "bytes": _packed(variant), "dense_sha256": HASH, "group": study.quantise.group, "head": study.quantise.head,
        "rounding": "gptq" if variant.rounds_by_text else "nearest",
    }  # fmt: skip


def _packed(variant: Variant) -> int:
    """Bytes on disk: zeros as a bit mask, what was removed not at all."""
    if variant.precision:
        whole = FASTER.get(variant.method, 1.0) * STORED[variant.precision]
        return round(whole * (1 - 0.8 * sparsity_of(variant.rate))) if variant.prunes == "mask" else round(whole)
    if variant.prunes == "mask":
        return round(DENSE_BYTES - 4 * sparsity_of(variant.rate) * PRUNABLE + PRUNABLE / 8)
    return round(FASTER.get(variant.method, 1.0) * DENSE_BYTES)


def _history(folder: Path) -> None:
    import pandas

    folder.mkdir(parents=True)
    steps = np.arange(100, 2100, 100)
    curve = {
        "step": steps,
        "epoch": steps / 100,
        "tick": np.arange(1, 21),
        "train_loss": 1.4 + 2 * np.exp(-steps / 400),
        "validation_loss": [1.5 + 2 * math.exp(-step / 400) if step % 200 == 0 else None for step in steps],
        "learning_rate": 1e-3 * (1 - steps / 2200),
    }
    pandas.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    generator, rows = np.random.default_rng(3), []
    for tensor in ("transformer.h.0.attn.c_attn.weight", "transformer.h.3.mlp.c_fc.weight"):
        for index in range(12):
            start, walk = generator.normal(0, 0.03), generator.normal(0, 0.012, 20).cumsum() * (index % 4) / 2
            rows += [
                {"tick": t + 1, "step": int(steps[t]), "tensor": tensor, "index": index * 97, "value": start + walk[t]}
                for t in range(20)
            ]
    pandas.DataFrame(rows).sort_values(["tick", "tensor", "index"]).to_parquet(folder / "trajectories.parquet")


def _json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
