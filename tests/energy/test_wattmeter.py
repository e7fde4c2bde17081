"""The meter against counters that replay a power trace: what CodeCarbon and this package make of it is known."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from codecarbon.core import gpu_nvidia
from codecarbon.external.hardware import CPU, GPU
from codecarbon.external.ram import RAM

from prunelab.energy import wattmeter
from prunelab.errors import InputError

# A server's package or card while a model trains: idle, a ramp, load with the steps of batches, a dip, idle again.
TRACE_SECONDS = 0.01  # between two entries
TRACE_WATTS = np.concatenate(
    [
        np.full(10, 62.0),
        np.linspace(62.0, 290.0, 8),
        np.where(np.arange(40) % 8 < 6, 311.5, 184.25),
        np.full(6, 97.0),
        np.full(10, 63.5),
    ]
)
WRAP_UJ = 262_143_328_850


class Replay:
    """A RAPL folder and an NVML counter that rise by the trace while `run()` plays it."""

    def __init__(self, folder, start_j: float):
        self.folder, self.joules = folder / "intel-rapl/intel-rapl:0", start_j
        self.folder.mkdir(parents=True)
        (self.folder / "name").write_text("package-0\n")
        (self.folder / "max_energy_range_uj").write_text(f"{WRAP_UJ}\n")
        self._show()

    def _show(self):
        (self.folder / "energy_uj").write_text(f"{int(self.joules * 1e6) % WRAP_UJ}\n")

    def run(self):
        for watts in TRACE_WATTS:
            time.sleep(TRACE_SECONDS)
            self.joules += watts * TRACE_SECONDS
            self._show()


def rapl_meter(folder, start_j: float):
    replay = Replay(folder, start_j)
    cpu = CPU.from_utils(".", mode="intel_rapl", model="counted", tdp=300)
    cpu._intel_interface = type(cpu._intel_interface)(rapl_dir=str(folder / "intel-rapl"))
    return replay, wattmeter.Wattmeter("DEU", hardware=[RAM(force_ram_power=20), cpu])


@pytest.fixture(autouse=True)
def rapl_reader_without_a_real_counter(monkeypatch):
    # CPU(...) opens the machine's own counter first, which most machines do not have.
    from codecarbon.core import cpu

    monkeypatch.setattr(cpu.IntelRAPL, "_setup_rapl", _setup_if_there(cpu.IntelRAPL._setup_rapl))


def _setup_if_there(original):
    def setup(self):
        if not self._lin_rapl_dir.startswith("/sys"):
            original(self)

    return setup


@pytest.mark.parametrize("start_j", [1000.0, WRAP_UJ / 1e6 - 40.0])  # the second wraps within a window
def test_a_processors_counter_is_matched_within_one_percent(tmp_path, start_j):
    replay, meter = rapl_meter(tmp_path, start_j)
    assert meter.provenance == {"cpu": "rapl", "gpu": "none", "ram": "model"}
    truth = TRACE_WATTS.sum() * TRACE_SECONDS
    windows = [meter.window(replay.run) for _ in range(3)]
    for window in windows:
        assert window.cpu_j == pytest.approx(truth, rel=0.01)
        assert window.gpu_j is None
        assert window.ram_j == pytest.approx(20 * window.seconds, rel=0.05)


def test_what_happens_between_windows_is_in_none_of_them(tmp_path):
    replay, meter = rapl_meter(tmp_path, 5.0)
    meter.window(replay.run)
    replay.run()  # nobody asked
    assert meter.window(replay.run).cpu_j == pytest.approx(TRACE_WATTS.sum() * TRACE_SECONDS, rel=0.01)


def test_a_long_reading_matches_as_well(tmp_path):
    replay, meter = rapl_meter(tmp_path, 5.0)
    meter.start()
    for _ in range(2):
        replay.run()
    assert meter.stop().cpu_j == pytest.approx(2 * TRACE_WATTS.sum() * TRACE_SECONDS, rel=0.01)


def test_a_gpus_counter_is_matched_within_one_percent(tmp_path, monkeypatch):
    replay = Replay(tmp_path, 2500.0)
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        NVMLError_NotSupported=RuntimeError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: int(replay.joules * 1e3),
        nvmlDeviceGetName=lambda handle: "Counted",
        nvmlDeviceGetUUID=lambda handle: "GPU-0",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=1, used=1, free=0),
        nvmlDeviceGetTemperature=lambda handle, sensor: 40,
        nvmlDeviceGetPowerUsage=lambda handle: 100_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 300_000,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=50),
        nvmlDeviceGetComputeMode=lambda handle: 0,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [],
        nvmlDeviceGetGraphicsRunningProcesses=lambda handle: [],
    )
    from codecarbon.core import gpu

    monkeypatch.setattr(gpu_nvidia, "pynvml", nvml)
    monkeypatch.setattr(gpu, "PYNVML_AVAILABLE", True)
    load = CPU.from_utils(".", mode="cpu_load", model="modelled", tdp=100)
    meter = wattmeter.Wattmeter("DEU", hardware=[RAM(force_ram_power=20), load, GPU.from_utils()])
    assert meter.provenance == {"cpu": "cpu_load_model", "gpu": "nvml_counter", "ram": "model"}
    for _ in range(2):
        assert meter.window(replay.run).gpu_j == pytest.approx(TRACE_WATTS.sum() * TRACE_SECONDS, rel=0.01)


def test_a_counter_that_stands_still_is_an_error_and_not_a_saving(tmp_path):
    _, meter = rapl_meter(tmp_path, 5.0)
    with pytest.raises(wattmeter.MeterError, match=r"for cpu \(rapl\).*stands still"):
        meter.window(lambda: time.sleep(0.1))


def test_a_swallowed_failure_of_the_tracker_is_an_error(tmp_path, monkeypatch):
    replay, meter = rapl_meter(tmp_path, 5.0)
    monkeypatch.setattr(meter._tracker, "stop_task", lambda: None)
    with pytest.raises(wattmeter.MeterError, match="returned nothing"):
        meter.window(replay.run)


def test_a_reading_of_another_duration_is_an_error(tmp_path):
    replay, meter = rapl_meter(tmp_path, 5.0)

    def restart_inside():
        replay.run()
        next(iter(meter._tracker._tasks.values())).start_time += 0.5

    with pytest.raises(wattmeter.MeterError, match="of a reading that took"):
        meter.window(restart_inside)


def test_an_unknown_country_is_refused_instead_of_a_world_average(tmp_path):
    _, meter = rapl_meter(tmp_path, 5.0)
    with pytest.raises(InputError, match="'XXX' is unknown"):
        wattmeter.Wattmeter("XXX", hardware=meter._tracker._hardware)
    with pytest.raises(InputError, match="needs the ISO code"):
        wattmeter.Wattmeter("")


def test_the_windows_work_may_fail_and_the_meter_goes_on(tmp_path):
    replay, meter = rapl_meter(tmp_path, 5.0)
    with pytest.raises(ZeroDivisionError):
        meter.window(lambda: 1 / 0)
    assert meter.window(replay.run).cpu_j == pytest.approx(TRACE_WATTS.sum() * TRACE_SECONDS, rel=0.01)


def test_this_machines_own_meter_starts_in_the_background_and_says_where_its_numbers_come_from():
    meter = wattmeter.Starting("DEU").ready()
    assert meter.provenance["cpu"] in wattmeter.CPU_SOURCES.values() or meter.provenance["cpu"] in (
        "powermetrics",
        "pmic",
    )
    assert meter.window(lambda: time.sleep(0.2)).cpu_j > 0


def test_an_error_of_the_background_start_reaches_the_caller():
    with pytest.raises(InputError, match="ISO code"):
        wattmeter.Starting("").ready()


def test_nothing_of_the_users_configuration_reaches_the_tracker(tmp_path, monkeypatch):
    plain = wattmeter.Wattmeter("DEU", hardware=[RAM(force_ram_power=20), modelled()])
    hostile = {  # every setting of CodeCarbon's own list that takes a text, and the batch system's
        "PUE": "2.0", "WUE": "9", "FORCE_CPU_POWER": "500", "FORCE_RAM_POWER": "99", "TRACKING_MODE": "process",
        "MEASURE_POWER_SECS": "1000", "FORCE_MODE_CPU_LOAD": "true", "GPU_IDS": "7", "RAPL_INCLUDE_DRAM": "true",
        "RAPL_PREFER_PSYS": "true", "REGION": "bavaria", "CLOUD_PROVIDER": "gcp", "CLOUD_REGION": "x",
        "COUNTRY_ISO_CODE": "FRA", "COUNTRY_2LETTER_ISO_CODE": "FR", "OUTPUT_DIR": "/no/such/folder",
        "OUTPUT_METHODS": "csv,api", "SAVE_TO_FILE": "true", "EMISSIONS_ENDPOINT": "http://127.0.0.1:9",
        "ALLOW_MULTIPLE_RUNS": "false", "EXPERIMENT_ID": "e", "ELECTRICITYMAPS_API_TOKEN": "t",
        "CO2_SIGNAL_API_TOKEN": "t", "FORCE_CARBON_INTENSITY_G_CO2E_KWH": "1", "LOG_LEVEL": "debug",
    }  # fmt: skip
    for name, value in hostile.items():
        monkeypatch.setenv(f"CODECARBON_{name}", value)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    lines = [f"{name.lower()} = {value}" for name, value in hostile.items()]
    write_config(tmp_path, monkeypatch, "\n".join(["[codecarbon]", *lines]))
    leaky = wattmeter.Wattmeter("DEU", hardware=[RAM(force_ram_power=20), modelled()])
    assert leaky._tracker._conf == plain._tracker._conf
    window = leaky.window(lambda: time.sleep(0.5))
    assert window.ram_j == pytest.approx(20 * window.seconds, rel=0.05)  # not 40 and not 99 watts
    assert sorted(path.name for path in tmp_path.iterdir()) == [".codecarbon.config"]  # nothing written, no lock


def test_a_configuration_that_nobody_can_read_is_no_hindrance(tmp_path, monkeypatch):
    write_config(tmp_path, monkeypatch, "no section, 50%\n")
    assert wattmeter.Wattmeter("DEU", hardware=[RAM(force_ram_power=20)]).provenance["ram"] == "model"


def test_what_decides_a_figure_is_said_to_the_tracker_and_not_left_to_it():
    import inspect

    from codecarbon import OfflineEmissionsTracker

    known = set()
    for kind in OfflineEmissionsTracker.__mro__[:2]:
        known |= set(inspect.signature(inspect.unwrap(kind.__init__)).parameters)
    # Names and addresses of what is not written or sent, and what the meter itself says.
    idle = {"self", "args", "kwargs", "country_iso_code", "project_name", "experiment_id", "experiment_name", "api_key"}
    idle |= {"api_call_interval", "api_endpoint", "output_file", "on_csv_write", "logging_logger", "prometheus_url"}
    idle |= {name for name in known if name.startswith("save_to_")} | {"co2_signal_api_token"}
    assert known - idle == set(wattmeter.SETTINGS)  # a new setting of CodeCarbon's wants a decision


def test_a_tracker_that_did_not_initialise_is_an_error(monkeypatch):
    from codecarbon import emissions_tracker

    def broken(self, *_, **__):
        raise OSError("no such folder")

    monkeypatch.setattr(emissions_tracker.BaseEmissionsTracker, "_configure_multiple_runs", broken)
    with pytest.raises(wattmeter.MeterError, match="did not initialise"):
        wattmeter.Wattmeter("DEU")


def modelled():
    return CPU.from_utils(".", mode="cpu_load", model="modelled", tdp=100)


def write_config(folder, monkeypatch, text: str) -> None:
    """CodeCarbon's file in the home folder and in the current one, which are `folder`."""
    (folder / ".codecarbon.config").write_text(text + "\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
