import json
import os
import subprocess
import sys

import pytest

from prunelab.efficiency import device
from prunelab.errors import InputError
from stages import device as stage
from tests.helpers import studies


@pytest.fixture
def machine(tmp_path):
    """A described machine: 2 cores at 2.8 GHz, 24 GB."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "model name\t: Fast 9000\nflags\t\t: fpu avx512_bf16\ncpu MHz\t\t: 2800.0\n\n"
    )
    (tmp_path / "proc/meminfo").write_text("MemTotal:       24684120 kB\nMemFree:  1 kB\n")
    (tmp_path / "proc/loadavg").write_text("0.50 0.40 0.30 1/100 1234\n")
    (tmp_path / "proc/stat").write_text("cpu  100 0 50 9000 10 1 2 250 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    return tmp_path


def test_the_same_machine_gives_the_same_file_byte_for_byte(tmp_path):
    for name in ("a.json", "b.json"):
        stage.main(["--out", str(tmp_path / name)])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert len(json.loads((tmp_path / "a.json").read_text())["id"]) == 12


def test_the_stage_imports_neither_torch_nor_numpy(tmp_path):
    code = "import sys; from stages import device; device.main(['--out', sys.argv[1]]); print(sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d.json")], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    loaded = answer.stdout.splitlines()[-1]
    assert not [name for name in ("torch", "numpy", "transformers") if f"'{name}'" in loaded]


def test_a_clock_a_load_and_free_memory_are_not_the_machine(machine):
    before = device.fingerprint(machine)
    (machine / "proc/cpuinfo").write_text((machine / "proc/cpuinfo").read_text().replace("2800.0", "1200.0"))
    (machine / "proc/meminfo").write_text("MemTotal:       24684000 kB\nMemFree:  77 kB\n")
    assert device.fingerprint(machine) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("proc/cpuinfo", "Fast 9000", "Slow 10"),
        ("proc/meminfo", "24684120", "8000000"),
        ("proc/cpuinfo", "_bf16", "_x"),
    ],
)
def test_other_hardware_is_another_machine(machine, file, old, new):
    before = device.fingerprint(machine)["id"]
    (machine / file).write_text((machine / file).read_text().replace(old, new))
    assert device.fingerprint(machine)["id"] != before


def test_another_version_of_the_runtime_is_another_machine(machine, monkeypatch):
    before = device.fingerprint(machine)["id"]
    monkeypatch.setattr(device.metadata, "version", lambda name: "0.0.1")
    assert device.fingerprint(machine)["id"] != before


def test_a_containers_quota_counts_as_its_cores(machine):
    (machine / "sys/fs/cgroup").mkdir(parents=True)
    (machine / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    assert device.usable_cores(machine) == 0.5
    (machine / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert device.usable_cores(machine) == device.usable_cores()


def test_the_state_is_read_where_the_machine_tells_it_and_none_elsewhere(machine):
    state = device.state(machine)
    assert state["clock_mhz"] == 2800.0 and state["load_average"] == 0.5
    assert state["temperature_c"] is None and state["governor"] is None
    zone = machine / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("61500\n")
    assert device.state(machine)["temperature_c"] == 61.5
    assert device.steal_seconds(machine) == 2.5
    assert device.steal_seconds(machine / "nowhere") is None


def test_waiting_for_a_core_is_summed_over_the_threads(machine):
    for thread, waited in (("11", 2_000_000_000), ("12", 500_000_000)):
        (machine / "proc/self/task" / thread).mkdir(parents=True)
        (machine / "proc/self/task" / thread / "schedstat").write_text(f"77 {waited} 3\n")
    assert device.waiting_seconds(machine) == 2.5
    assert device.waiting_seconds(machine / "nowhere") is None


def test_this_threads_own_waiting_is_read_again_at_every_call(machine):
    (machine / "proc/thread-self").mkdir(parents=True)
    file = machine / "proc/thread-self/schedstat"
    file.write_text("77 1000000000 3\n")
    with device.waiting(machine) as waited:
        assert waited() == 1.0
        file.write_text("77 1500000000 3\n")
        assert waited() == 1.5
    with device.waiting(machine / "nowhere") as waited:
        assert waited() == 0.0


def test_a_thread_that_shares_its_core_waits_half_of_the_time_and_a_sleeping_one_not():
    code = (
        "import os, sys, time; from prunelab.efficiency import device\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "if os.fork() == 0:\n"
        "    until = time.time() + 1.5\n"
        "    while time.time() < until: pass\n"
        "    os._exit(0)\n"
        "def share(work):\n"
        "    with device.waiting() as waited:\n"
        "        start, before = time.perf_counter(), waited(); work(start)\n"
        "        return (waited() - before) / (time.perf_counter() - start)\n"
        "def spin(start):\n"
        "    while time.perf_counter() - start < 1.0: pass\n"
        "print(share(spin)); os.wait(); print(share(lambda start: time.sleep(0.5)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    spinning, sleeping = map(float, answer.stdout.split())
    if spinning == sleeping == 0.0:
        pytest.skip("this kernel does not tell how long a thread waited (no /proc/thread-self/schedstat)")
    assert spinning > 0.3 and sleeping < 0.2


def test_variables_that_decide_how_torch_computes_are_part_of_the_machine(machine, monkeypatch):
    for name in [name for name in os.environ if name.startswith(device.DECIDING)]:
        monkeypatch.delenv(name)
    plain = device.fingerprint(machine)
    assert "environment" not in plain
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    limited = device.fingerprint(machine)
    assert limited["environment"] == {"OMP_NUM_THREADS": "1"} and limited["id"] != plain["id"]


@pytest.fixture
def gpu_tool(tmp_path, monkeypatch):
    """Puts an nvidia-smi of two GPUs on PATH; returns its script so that a test can break it."""
    script = tmp_path / "bin/nvidia-smi"
    script.parent.mkdir()
    rows = "0, GPU-aaaa1111, H100, 81559, 550.1\n1, GPU-bbbb2222, A10, 23028, 550.1\n"
    script.write_text(f"#!/bin/sh\nprintf '{rows}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return script


def test_gpus_are_told_by_the_drivers_own_tool(gpu_tool):
    assert device._gpus() == [
        {"name": "H100", "memory_mib": 81559, "driver": "550.1"},
        {"name": "A10", "memory_mib": 23028, "driver": "550.1"},
    ]


@pytest.mark.parametrize(
    ("visible", "names"), [("1", ["A10"]), ("GPU-aaaa", ["H100"]), ("", []), ("0,1", ["H100", "A10"])]
)
def test_hidden_gpus_are_not_part_of_the_machine(gpu_tool, monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu["name"] for gpu in device._gpus()] == names


def test_a_broken_driver_is_an_error_and_not_a_machine_without_gpu(gpu_tool):
    gpu_tool.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")
    with pytest.raises(InputError, match="version mismatch"):
        device._gpus()


@pytest.fixture
def measured_elsewhere(tmp_path, monkeypatch):
    """A folder whose study is measured on the machine `bench`."""
    monkeypatch.chdir(tmp_path)
    text = studies.text("smoke").replace("  device: here ", "  device: bench ")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_where_another_machine_measures_its_published_fingerprint_is_the_device(measured_elsewhere):
    with pytest.raises(InputError, match="measured on 'bench', whose fingerprint is not here; run it with fan_out"):
        stage.main(["--out", "results/device.json"])
    device.published("bench").parent.mkdir(parents=True)
    device.published("bench").write_text(json.dumps({"id": "b", "cpu": "Its", "cores": 9, "memory_gb": 1, "gpus": []}))
    stage.main(["--out", "results/device.json"])
    assert json.loads((measured_elsewhere / "results/device.json").read_text())["cpu"] == "Its"
    with pytest.raises(InputError, match="measured on 'bench', and this machine is called 'nothing'"):
        device.require("bench")


def test_the_machine_of_that_name_finds_its_own_fingerprint(measured_elsewhere, monkeypatch):
    monkeypatch.setenv("PRUNELAB_DEVICE", "bench")
    stage.main(["--out", "results/device.json"])
    assert json.loads((measured_elsewhere / "results/device.json").read_text()) == device.fingerprint()
    device.require("bench")
    device.require("here")
