"""The machine: its fingerprint (on which reuse of measurements hangs), its state, and its name among workers.

Only the standard library: the stage that writes the fingerprint always runs, so it must cost nothing.
Nothing that changes by itself on one machine (clock, load, free memory, kernel build) is in the fingerprint.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from prunelab.errors import InputError

RUNTIME = ("python", "libraries")  # what of the fingerprint belongs to the Python that runs, not to the machine
HERE = "here"  # the setting efficiency.device for the machine that runs the study, whichever that is
NAME = "PRUNELAB_DEVICE"  # the environment variable that says what a worker's machine is called
PUBLISHED = Path(".prunelab/devices")
LIBRARIES = ("torch", "transformers")  # the runtime that executes a model; another version is another machine

# Variables that say how many threads compute, where, with which instructions and how exactly; set, another machine.
DECIDING = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "NVIDIA_TF32", "TORCH_ALLOW_TF32", "CUBLAS_")


def fingerprint(root: Path = Path("/")) -> dict:
    """Hardware and runtime as a dict with a short `id`, the hash of everything else; equal on the same machine.

    root: where /proc and /sys are looked for. memory_gb counts 2^30 bytes, rounded.
    """
    cpu = _cpu(root)
    content = {
        "cpu": cpu["model"],
        "architecture": platform.machine(),
        "cores": usable_cores(root),
        "bf16": any("bf16" in flag for flag in cpu["flags"]),  # native, or emulated several times slower
        "memory_gb": _memory_gb(root),
        "gpus": _gpus(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }
    if chosen := {name: value for name, value in sorted(os.environ.items()) if name.startswith(DECIDING)}:
        content["environment"] = chosen
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12], **content}


def usable_cores(root: Path = Path("/")) -> float:
    """Cores this process may use: its affinity, or a container's quota where that is less (then maybe a fraction)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        return min(cores, round(int(quota[0]) / int(quota[1]), 2))
    return cores


def state(root: Path = Path("/")) -> dict:
    """What may change while one measures; None where this machine does not tell.

    clock_mhz: mean over cores; temperature_c: the hottest zone; governor: of the first core; load_average: one minute.
    """
    cpus = root / "sys/devices/system/cpu"
    clocks = [int(text) / 1000 for p in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq") if (text := _text(p))]
    if not clocks:
        lines = _text(root / "proc/cpuinfo").splitlines()
        clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    temperatures = [int(text) / 1000 for p in zones if (text := _text(p))]
    load = _text(root / "proc/loadavg").split()
    return {
        "clock_mhz": round(sum(clocks) / len(clocks), 1) if clocks else None,
        "temperature_c": max(temperatures) if temperatures else None,
        "governor": _text(cpus / "cpu0/cpufreq/scaling_governor") or None,
        "load_average": float(load[0]) if load else None,
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def steal_seconds(root: Path = Path("/")) -> float | None:
    """Seconds, summed over cores since boot, that the host gave to others while this machine wanted to run."""
    fields = _text(root / "proc/stat").partition("\n")[0].split()
    if len(fields) < 9:
        return None
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def waiting_seconds(root: Path = Path("/")) -> float | None:
    """Seconds, summed over this process's threads, in which they wanted to run and others had the core."""
    tasks = [text.split() for p in (root / "proc/self/task").glob("*/schedstat") if (text := _text(p))]
    return sum(int(task[1]) for task in tasks) / 1e9 if tasks else None


@contextlib.contextmanager
def waiting(root: Path = Path("/")):
    """Yield a function that tells the seconds this thread has waited so far for a core that others had.

    Always 0.0 where the system does not tell. It costs 3 microseconds: the file is opened once.
    """
    file = root / "proc/thread-self/schedstat"
    if not file.exists():
        yield lambda: 0.0
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        yield lambda: int(os.pread(descriptor, 64, 0).split()[1]) / 1e9
    finally:
        os.close(descriptor)


def is_here(wanted: str) -> bool:
    """Whether this is the machine that the setting efficiency.device means; a worker's name is its PRUNELAB_DEVICE."""
    return wanted in (HERE, os.environ.get(NAME))


def published(name: str) -> Path:
    """The file for the fingerprint of the machine `name`, which a coordinator brings there (flows/part.py)."""
    return PUBLISHED / f"{name}.json"


def require(wanted: str) -> None:
    """Raises InputError unless this is the machine on which the study measures."""
    if not is_here(wanted):
        raise InputError(
            f"efficiency.device: the study is measured on {wanted!r}, and this machine is called "
            f"{os.environ.get(NAME) or 'nothing'!r}; let a worker of {wanted!r} do it (fan_out, docs/workers.md), or "
            f"set efficiency.device: {HERE}"
        )


def _cpu(root: Path) -> dict:
    fields = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {"model": fields.get("model name") or platform.processor() or platform.machine(), "flags": flags}


def _memory_gb(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal"):
            return round(int(line.split()[1]) / 2**20)
    return None


def _gpus() -> list[dict]:
    """Visible NVIDIA GPUs with memory (MiB) and driver; empty without the driver's own tool. Starts no CUDA."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    query = [tool, "--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", timeout=60)
    if answer.returncode:
        told = (answer.stdout + answer.stderr).strip().partition("\n")[0]
        raise InputError(f"nvidia-smi is installed but fails ({told}); repair the driver or take it off PATH")
    rows = [[field.strip() for field in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        chosen = [part.strip() for part in wanted.split(",") if part.strip()]
        rows = [row for row in rows if any(c == row[0] or (len(c) > 4 and row[1].startswith(c)) for c in chosen)]
    return [{"name": name, "memory_mib": int(memory), "driver": driver} for _, _, name, memory, driver in rows]


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str:
    """What the kernel says at `path`; empty where this machine has no such file or does not let us read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
