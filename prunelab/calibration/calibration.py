"""Calibration: what a model is shown before it is pruned, and what was seen of its activations.

The samples come from the study's task (samples.py). What a calibration run leaves behind is a folder:
`calibration.json` (source, seed, hash), `samples.safetensors`, and, as far as they were asked for, statistics of the
dense model that serve every method and rate:

    norms.safetensors   <weight>: (in,) fp32, the squared column norm of the layer's inputs, mean over samples
    gradients-*         <weight>: the weight's shape, fp32, sum over samples of |W·dL/dW|
    hessians-*          <weight>: (in, in) fp32, (2/N)·sum x xᵀ, once for weights that share their input: hessians.json
                        says which. 4·in² bytes each: 0.4 GB for a model of 135 M parameters, 22 GB for one of 7 B

Reading it needs no transformers.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prunelab.calibration.samples import Samples, digest
from prunelab.disk.files import read_json, write_json
from prunelab.errors import InputError
from prunelab.models.tensors import Tensors, identity
from prunelab.recipes.methods import METHODS, allocation_of

FACTS = "calibration.json"
SAMPLES = "samples.safetensors"
NORMS = "norms.safetensors"
LEADERS = "hessians.json"


def write(folder, samples: Samples, facts: dict) -> dict:
    """Write `samples` and what must be said about them; returns that, their hash included."""
    count, length = samples["input_ids"].shape
    facts = {"hash": digest(samples), "samples": count, "length_tokens": length, **facts}
    save_file({name: tensor.contiguous() for name, tensor in samples.items()}, Path(folder) / SAMPLES)
    write_json(Path(folder) / FACTS, facts)
    return facts


def needed(settings) -> set[str]:
    """Which statistics of the dense model the study's masks read: of `norms`, `hessians`, `gradients`."""
    found = set()
    for variant in (one for one in settings.variants() if one.prunes == "mask"):
        needs = METHODS[variant.method].needs
        allocation = allocation_of(variant.method, variant.allocation, settings.prune.allocation)
        if needs == "gradients" or (needs and settings.calibrate.propagate == "dense"):
            found.add(needs)
        # Shares are found on the dense model, also where the blocks are then pruned one after the other.
        if allocation == "owl" or (needs == "norms" and allocation in ("global", "sigma")):
            found.add("norms")
    return found


class Calibration:
    """What a calibration run left in `folder`. Raises InputError for what is not there."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.facts = read_json(self.folder / FACTS)
        self._norms: dict | None = None
        self._leaders: dict | None = None
        self._files: dict[str, Tensors] = {}

    def require_same_model(self, dense, name: str, checkpoint: str) -> None:
        """Raises InputError unless its statistics are of the model in folder `dense`, at `checkpoint` (last | best).

        name: of the variant that is made of both.
        """
        for key, expected in (("dense_sha256", identity(dense)), ("checkpoint", checkpoint)):
            if self.facts.get(key, expected) != expected:
                raise InputError(
                    f"{name}: {self.folder} was calibrated on another model than {dense} ({checkpoint} checkpoint); "
                    "calibrate again (dvc repro calibrate)"
                )

    def samples(self) -> Samples:
        """What the model was shown."""
        if not (self.folder / SAMPLES).exists():
            raise InputError(f"{self.folder}: holds no samples; fill in calibrate in params.yaml (dvc repro)")
        return load_file(self.folder / SAMPLES)

    def statistic(self, name: str, kind: str) -> torch.Tensor:
        """What a score of this `kind` (methods.Method.needs: `norms` or `gradients`) looks at."""
        return {"norms": self.squared_norm, "gradients": self.gradient}[kind](name)

    def squared_norm(self, name: str) -> torch.Tensor:
        """(in,) fp32 of the weight `name`."""
        if self._norms is None:
            path = self.folder / NORMS
            self._norms = load_file(path) if path.exists() else {}
        return self._of(self._norms, name, "input norms")

    def gradient(self, name: str) -> torch.Tensor:
        """The sum over samples of |W·dL/dW| of the weight `name`, in its shape."""
        return self._of(self._shards("gradients"), name, "gradients")

    def leader(self, name: str) -> str:
        """The weight under whose name the Hessian of the weight `name` is stored."""
        if self._leaders is None:
            self._leaders = read_json(self.folder / LEADERS) if (self.folder / LEADERS).exists() else {}
        return self._leaders.get(name, name)

    def hessian(self, name: str) -> torch.Tensor:
        """(in, in) fp32 of the weight `name`."""
        return self._of(self._shards("hessians"), self.leader(name), "Hessians")

    def _shards(self, kind: str):
        if kind not in self._files:
            present = any(self.folder.glob(f"{kind}-*.safetensors"))
            self._files[kind] = Tensors(self.folder, f"{kind}-*.safetensors") if present else {}
        return self._files[kind]

    def _of(self, tensors, name: str, what: str) -> torch.Tensor:
        if name not in tensors:
            raise InputError(
                f"{self.folder}: holds no {what} of {name}; calibrate again with the methods, the scope and the "
                "checkpoint that prune uses (dvc repro)"
            )
        return tensors[name]
