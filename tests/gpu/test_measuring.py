"""The measuring stages on a GPU: memory counted by torch, energy by the driver's counter, work as on the CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flows import forkserver
from prunelab.disk.files import read_json
from prunelab.efficiency import device, latency, memory
from prunelab.energy import energy, wattmeter
from prunelab.making import masking
from prunelab.models import checkpoint, models
from prunelab.quantised import files as quantised
from prunelab.recipes import variants
from tests.gpu import both
from tests.helpers import tiny

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def run(folder, *command: str) -> str:
    """A command of ours in a fresh process, as DVC runs it; what it prints."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def multiply(seconds: float) -> None:
    """Keep the GPU busy."""
    matrix, until = torch.randn(4096, 4096, device=both.GPU, dtype=torch.bfloat16), time.perf_counter() + seconds
    while time.perf_counter() < until:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()


def test_the_fingerprint_names_the_gpu_and_nothing_is_forked_beside_it():
    found = device.fingerprint()["gpus"]
    assert len(found) == torch.cuda.device_count()
    assert torch.cuda.get_device_name(0) in [gpu["name"] for gpu in found]
    assert not forkserver.possible()
    assert models.computes_bf16() == (torch.cuda.get_device_capability() >= (8, 0))


def test_windows_and_bookings_are_the_driver_s_counter(tmp_path):
    """Both read NVML's total; a tenth is what it moves on between two of its ticks in two seconds."""
    meter = wattmeter.Wattmeter("DEU")
    assert meter.provenance["gpu"] == "nvml_counter"
    idle = meter.window(lambda: time.sleep(1))
    before = energy.read_counters()
    window = meter.window(lambda: multiply(2))
    spent = energy._spent(before["gpu"], energy.read_counters()["gpu"])
    assert window.gpu_j == pytest.approx(spent, rel=0.1)
    watts = window.gpu_j / window.seconds
    assert watts > 1.2 * idle.gpu_j / idle.seconds
    for long, how in ((False, "counters"), (True, "codecarbon")):
        with energy.stage_meter("busy", tmp_path / f"{how}.json", long=long, country="DEU"):
            multiply(4 if long else 2)
        booked = read_json(tmp_path / f"{how}.json")
        assert booked["meter"] == how and booked["provenance"]["gpu"] == "nvml_counter"
        assert booked["gpu_j"] / booked["seconds"] == pytest.approx(watts, rel=0.5)


@pytest.fixture(scope="module")
def measured(llama, tmp_path_factory):
    """efficiency.json of dense (the A/A test) and of a variant, from the stages' own commands; and what it booked."""
    folder = tmp_path_factory.mktemp("measured")
    train = llama.settings.train.model_dump(mode="json")
    both.settings(folder, train=train, energy={"seconds": 1, "window_seconds": 0.3, "idle_seconds": 0.5})
    masking.mask(both.given(llama), variants.parse("magnitude-50"), folder / "magnitude-50")
    run(folder, "stages.device", "--out", "device.json")
    common = ["--dense", str(llama.dense[both.GPU]), "--device", "device.json"]
    aa = ["--model", str(llama.dense[both.GPU]), "--out", "dense", "--energy", "energy.json"]
    run(folder, "stages.efficiency", "dense", *aa, *common)
    variant = ["--model", "magnitude-50", "--out", "variant", "--session", "dense/efficiency.json"]
    run(folder, "stages.efficiency", "magnitude-50", *variant, *common)
    found = {name: read_json(folder / name / "efficiency.json") for name in ("dense", "variant")}
    return found | {"booked": read_json(folder / "energy.json")}


@pytest.mark.parametrize("row", ["dense", "variant"])
def test_efficiency_counts_the_work_of_the_cpu_and_joules_of_the_counter(llama, measured, row):
    figures, work = measured[row], latency.Work(16, 1, 8)
    model = checkpoint.load(llama.dense[both.GPU])
    ids = latency.prompts(model, work, 0)
    assert figures["macs_per_token"] == memory.macs_per_token(model, ids)
    assert figures["kv_cache_bytes_per_token"] == memory.kv_cache_bytes_per_token(model, ids)
    counts = memory.parameter_counts(model)
    assert (figures["parameters"], figures["parameter_bytes"]) == (counts["parameters"], counts["parameter_bytes"])
    assert figures["decode_ms_per_token"] > 0 and figures["decode_ratio_lo"] <= figures["decode_ratio_hi"]
    assert figures["energy_provenance"]["gpu"] == "nvml_counter" and not figures["energy_estimated"]
    assert "gpu" in figures["power"]["components"]
    assert figures["decode_gpu_j_per_token"] > 0 and figures["prefill_gpu_j_per_token"] > 0
    assert figures["decode_j_per_token"] >= figures["decode_gpu_j_per_token"]
    assert figures["peak_memory_bytes"] >= figures["parameter_bytes"]
    assert figures["peak_reserved_bytes"] >= figures["peak_memory_bytes"]
    assert figures["peak_memory_bytes_lo"] == figures["peak_memory_bytes_hi"] == figures["peak_memory_bytes"]


def test_the_measuring_stage_books_the_gpu_s_energy(measured):
    assert measured["booked"]["gpu_j"] > 0 and measured["booked"]["provenance"]["gpu"] == "nvml_counter"


def test_the_peak_is_the_gpu_s_and_holds_the_weights_and_little_more(tmp_path):
    """50 MB of weights; beside them logits, a cache and the workspaces of the libraries that multiply."""
    dense = tiny.dense_folder(tmp_path / "dense", tiny.gpt2(n_embd=64, vocab_size=200_000))
    work = ["--prompt-tokens", "8", "--output-tokens", "4"]
    peaks = json.loads(run(tmp_path, "prunelab.efficiency.memory", "dense", *work))
    weights = memory.parameter_counts(checkpoint.load(dense))["parameter_bytes"]
    assert weights <= peaks["peak_memory_bytes"] < weights + 80e6
    assert peaks["peak_reserved_bytes"] >= peaks["peak_memory_bytes"]
    (tmp_path / "int8").mkdir()
    quantised.write(checkpoint.load(dense), dense, tmp_path / "int8", "dense-int8", "0" * 64)
    smaller = json.loads(run(tmp_path, "prunelab.efficiency.memory", "int8", *work))
    assert smaller["peak_memory_bytes"] < peaks["peak_memory_bytes"] - 0.5 * weights
