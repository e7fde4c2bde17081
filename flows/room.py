"""How many stages this machine has room for side by side, and how many cores they share."""

import json
from pathlib import Path

import psutil

from prunelab.efficiency.device import usable_cores

DEVICE = Path("results/device.json")
# A stage that scores a model holds it in fp32 (a file of 16 bits twice its size), what a batch leaves behind, and
# torch and transformers themselves. A rule of thumb on the safe side; `--workers` says otherwise.
STAGE_BYTES = 1 << 30
TIMES_THE_MODEL = 4


class Room:
    def __init__(self, workers: int | None):
        """workers: the user's wish; None: one a core, as far as memory goes, and one where there is a GPU, whose memory
        they would share."""
        self.cores = max(1, int(usable_cores()))
        self._wish = workers
        self._free_bytes = free_bytes()  # now, while nothing of ours runs

    @property
    def workers(self) -> int:
        """Asked again as the study goes on: how large its models are shows when the first is there."""
        if self._wish is not None:
            return self._wish
        if has_gpu():
            return 1
        return max(1, min(self.cores, self._free_bytes // (STAGE_BYTES + TIMES_THE_MODEL * largest_model_bytes())))


def free_bytes(root: Path = Path("/")) -> int:
    """Memory that could be had, of the machine or of the container (cgroup v2) where that has less."""
    free = psutil.virtual_memory().available
    limit, used = (root / "sys/fs/cgroup" / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free


def has_gpu() -> bool:
    """What the probe of the machine found."""
    return DEVICE.exists() and bool(json.loads(DEVICE.read_text(encoding="utf-8")).get("gpus"))


def largest_model_bytes() -> int:
    """Of the tensors of the study's dense models, fetched or trained; 0 before there are any."""
    folders = [Path("data/fetched/model"), *Path("models").glob("*/dense")]
    return max((sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in folders), default=0)
