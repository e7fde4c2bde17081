"""A study's files without a study: written exactly in the formats of the contract, with numbers known beforehand.

Plain magnitude costs `0.5·s⁴` nats at sparsity s, history half of that, random ten times as much; every window of text
has its own difficulty, the same for all models, plus a little noise, so that paired differences are sharp.
"""

import json
import math
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from prunelab.study import params

COST = {"random": 10.0, "magnitude": 1.0, "average-magnitude": 0.9, "systematic": 0.5, "systematic-average": 0.45}
DENSE_LOSS, DENSE_BYTES, PARAMETERS, PRUNABLE, WINDOWS = 1.55, 3_300_000, 820_000, 790_000, 400
HASH = "ab" * 32
ROOT = Path(__file__).parents[2]
TWO_METHODS = {"methods": ["magnitude", "systematic"], "rates": [50, 60, 80]}


def settings(folder: Path, **changes) -> params.Settings:
    """The repository's params.yaml, with `changes` such as `replicas=["s2"]` or `prune={"rates": [50]}`."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(ROOT / "params.yaml")
    content["runtimes"]["rows"] = []  # the figures written here have no quantised model
    for key, value in changes.items():
        content[key] = (content[key] or {}) | value if isinstance(value, dict) else value
    folder.mkdir(parents=True, exist_ok=True)
    yaml.dump(content, folder / "params.yaml")
    return params.load(folder / "params.yaml")


def excess_loss(variant) -> float:
    sparsity = variants_sparsity(variant.rate)
    return COST.get(variant.method, 0.8) * 0.5 * sparsity**4


def variants_sparsity(rate: str) -> float:
    """60 → 0.6; sigma112 → erf of 1.12 x 0.6028 / sqrt 2, what a normal distribution loses; 2of4 → 0.5."""
    if rate.isdigit():
        return int(rate) / 100
    if rate.startswith("sigma"):
        return math.erf(int(rate[5:]) / 100 * 0.6028 / math.sqrt(2))
    zeros, group = rate.split("of")
    return int(zeros) / int(group)


def write(folder: Path, study: params.Settings) -> tuple[Path, Path]:
    """All files of `study` under `folder`; returns its results and models folders."""
    from safetensors.numpy import save_file

    results, models = folder / "results", folder / "models"
    difficulty = np.random.default_rng(0).normal(DENSE_LOSS, 0.3, WINDOWS)
    seeds = {tag or "": n for n, tag in enumerate((None, *study.replicas))}

    def quality(identifier: str, tag: str | None, excess: float) -> None:
        generator = np.random.default_rng(list(identifier.encode()))
        shift = 0.004 * seeds[tag or ""]
        dense = difficulty + shift
        spread = 0.0 if identifier.split("-s")[0] == "dense" else 0.02
        losses = dense + excess + generator.normal(0, spread, WINDOWS)
        half = 1.97 * spread / math.sqrt(WINDOWS)
        difference = float(np.mean(losses - dense))
        _json(
            results / identifier / "quality.json",
            {
                "variant": identifier, "split": "test", "text_sha256": HASH, "context": 64, "windows": WINDOWS,
                "tokens": WINDOWS * 63, "bytes": WINDOWS * 64, "loss": float(losses.mean()),
                "perplexity": math.exp(losses.mean()), "bits_per_byte": float(losses.mean()) / math.log(2),
                "loss_diff": difference, "loss_diff_lo": difference - half, "loss_diff_hi": difference + half,
                "kl_to_dense": max(0.0, 0.8 * excess), "top1_agreement": min(1.0, max(0.05, 1 - excess)),
                "dtype": "float32",
            },
        )  # fmt: skip
        name = "reference" if spread == 0 else "windows"
        save_file({"loss": losses}, results / identifier / f"{name}.safetensors")

    def efficiency(identifier: str, sparsity: float) -> None:
        generator = np.random.default_rng(list(identifier.encode()))
        ratio = 1.0 if sparsity == 0 else float(1 + generator.normal(0, 0.006))
        _json(
            results / identifier / "efficiency.json",
            {
                "variant": identifier, "device": "cpu-2-cores-3f9a", "runtime": "eager", "dtype": "float32",
                "threads": 2, "parameters": PARAMETERS, "nonzero_parameters": round(PARAMETERS - sparsity * PRUNABLE),
                "dense_bytes": DENSE_BYTES,
                "packed_bytes": DENSE_BYTES if sparsity == 0 else _packed(sparsity),
                "macs_per_token": 799_000, "prefill_ms": 4.1, "prefill_ms_p10": 4.0, "prefill_ms_p90": 4.6,
                "decode_ms_per_token": 2.4 * ratio, "decode_ms_per_token_p10": 2.3 * ratio,
                "decode_ms_per_token_p90": 2.9 * ratio, "prefill_ratio": ratio, "prefill_ratio_lo": ratio - 0.02,
                "prefill_ratio_hi": ratio + 0.02, "decode_ratio": ratio, "decode_ratio_lo": ratio - 0.014,
                "decode_ratio_hi": ratio + 0.015, "decode_verdict": "no difference",
                "decode_smallest_effect": 0.015, "unreliable": False, "peak_memory_bytes": 412_000_000,
                "decode_j_per_token": 0.067 * ratio, "decode_j_per_token_lo": 0.066 * ratio,
                "decode_j_per_token_hi": 0.068 * ratio, "prefill_j_per_token": 0.004,
                "energy_provenance": {"cpu": "cpu_load_model", "gpu": "none", "ram": "model"},
                "energy_estimated": True, "gco2_per_million_tokens": 6.4 * ratio, "rounds": 40, "dropped_rounds": 3,
            },
        )  # fmt: skip

    for tag in (None, *study.replicas):
        suffix = f"-{tag}" if tag else ""
        quality(f"dense{suffix}", tag, 0.0)
        efficiency(f"dense{suffix}", 0.0)
        for control in study.prune.controls:
            quality(f"dense-{control}{suffix}", tag, {"average": -0.012, "best": -0.001}[control])
        _history(models / f"dense{suffix}" / "history")
    for variant in study.variants():
        sparsity = variants_sparsity(variant.rate)
        wobble = 0.003 * seeds[variant.seed_tag or ""] * sparsity
        quality(variant.id, variant.seed_tag, excess_loss(variant) + wobble)
        efficiency(variant.id, sparsity)
        zeros = round(sparsity * PRUNABLE)
        _json(
            models / variant.id / "sparsity.json",
            {
                "variant": variant.id, "method": variant.method, "score": "magnitude", "keep": "final",
                "allocation": variant.allocation or study.prune.allocation, "scope": "blocks", "checkpoint": "last",
                "seed": 1337, "rate": variant.rate, "target_sparsity": sparsity, "sparsity_pruned": zeros / PRUNABLE,
                "sparsity_all": zeros / PARAMETERS, "prune_rate": 1.1, "parameters": PARAMETERS,
                "nonzero_parameters": PARAMETERS - zeros, "scope_parameters": PRUNABLE, "dense_bytes": DENSE_BYTES,
                "packed_bytes": _packed(sparsity), "history": None, "calibration": None,
                "layers": [{"name": "transformer.h.0.attn.c_attn.weight", "block": 0, "role": "attention",
                            "shape": [128, 384], "zeros": 1, "sparsity": 0.5, "prune_rate": 1.1}],
            },
        )  # fmt: skip
    _json(results / "device.json", {"id": "cpu-2-cores-3f9a", "cpu": "A processor", "cores": 2, "gpu": None})
    return results, models


def _packed(sparsity: float) -> int:
    return round(DENSE_BYTES - 4 * sparsity * PRUNABLE + PRUNABLE / 8)


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
