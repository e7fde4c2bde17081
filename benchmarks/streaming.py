"""Is a model larger than memory pruned within it? Peak resident memory of Wanda on a random 1.3 B-parameter Llama.

    python -m benchmarks.streaming                     # builds 5.4 GB, prunes, prints the peak, removes everything
    python -m benchmarks.streaming --folder /big/disk --samples 128

The model (24 blocks, 2048 wide, fp32) is written tensor by tensor, then pruned to 50 % in a fresh process as published:
every block is calibrated behind pruned ones. The peak is the kernel's (VmHWM): all that was ever resident at once,
Python and torch (about 0.6 GB) and the mapped pages of files included. Hidden states live on disk. The target is 2 GB.
The last line is JSON.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where 8 GB fit for the time being; default: the temporary folder")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--method", default="wanda", help="wanda, ria or sparsegpt")
    parser.add_argument("--prune", type=Path, help=argparse.SUPPRESS)  # the fresh process
    arguments = parser.parse_args()
    if arguments.prune:
        return prune(arguments)

    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="streaming-") as folder:
        folder = Path(folder)
        parameters = build(folder / "dense")
        stored = (folder / "dense" / "model.safetensors").stat().st_size
        hidden = arguments.samples * arguments.length * CONFIG["hidden_size"] * 4
        block = 4 * (4 * CONFIG["hidden_size"] ** 2 + 3 * CONFIG["hidden_size"] * CONFIG["intermediate_size"])
        print(f"model                   {stored / 1e9:.2f} GB on disk in 1 file, {parameters / 1e9:.3f} B parameters")
        print(f"one block               {block / 1e9:.2f} GB")
        print(
            f"hidden states           {hidden / 1e9:.2f} GB on disk ({arguments.samples} x {arguments.length} tokens)",
            flush=True,
        )
        command = [sys.executable, "-m", "benchmarks.streaming", "--prune", str(folder), "--method", arguments.method]
        command += ["--samples", str(arguments.samples), "--length", str(arguments.length)]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"pruning failed with exit code {done.returncode}")
        found = json.loads(done.stdout.splitlines()[-1])
        found |= {"seconds": time.perf_counter() - started, "dense_bytes": stored, "parameters": parameters}
    print(f"peak resident memory    {found['peak_resident_bytes'] / 1e9:.2f} GB (target: below 2)")
    print(f"sparsity                {found['sparsity_pruned']:.4f} of the weights in scope; {found['seconds']:.0f} s")
    print(json.dumps(found))


def build(folder: Path) -> int:
    """Write a random model tensor by tensor (so that this costs no memory either); returns its parameters."""
    wide, inner, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocabulary, wide), "lm_head.weight": (vocabulary, wide)}
    shapes["model.norm.weight"] = (wide,)
    prunable = []
    for index in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{index}"
        linears = {f"self_attn.{name}_proj": (wide, wide) for name in "qkvo"}
        linears |= {"mlp.gate_proj": (inner, wide), "mlp.up_proj": (inner, wide), "mlp.down_proj": (wide, inner)}
        for name, shape in linears.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            role = "attention" if "attn" in name else "mlp"
            entry = {"name": f"{prefix}.{name}.weight", "block": index, "role": role, "transposed": False}
            prunable.append({**entry, "shape": list(shape)})
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{norm}.weight"] = (wide,)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as file:
        text = json.dumps(header).encode()
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            if len(shape) == 1:
                tensor = np.ones(shape, dtype=np.float32)
            else:
                tensor = generator.standard_normal(shape, dtype=np.float32) * np.float32(shape[1] ** -0.5)
            tensor.tofile(file)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "prunable.json").write_text(json.dumps(prunable))
    return offset // 4


def prune(arguments) -> None:
    """Prune the model in the folder `arguments.prune`, and print what it took as JSON."""
    import torch

    from prunelab.calibration import calibration
    from prunelab.calibration.blocks import BlockModel
    from prunelab.efficiency import memory
    from prunelab.pruning import pruning, streaming
    from prunelab.recipes import variants

    folder = arguments.prune
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(CONFIG["vocab_size"], (arguments.samples, arguments.length), generator=generator)
    samples = {"input_ids": tokens}
    (folder / "calibration").mkdir()
    calibration.write(folder / "calibration", samples, {"source": "random tokens", "seed": 1, "propagate": "pruned"})
    plan = pruning.Plan(variants.parse(f"{arguments.method}-50"), "uniform", "blocks", "last", seed=0)
    decide = streaming.decide_by_blocks(plan, BlockModel(folder / "dense"), samples, batch=1, disk=folder)
    record = pruning.prune(
        folder / "dense", folder / "variant", plan, calibration.Calibration(folder / "calibration"), decide
    )
    shutil.rmtree(folder / "variant")
    found = {"method": arguments.method, "samples": arguments.samples, "length_tokens": arguments.length}
    found |= {"peak_resident_bytes": memory.peak_resident_bytes(), "packed_bytes": record["packed_bytes"]}
    print(json.dumps({**found, "sparsity_pruned": record["sparsity_pruned"]}))


if __name__ == "__main__":
    main()
