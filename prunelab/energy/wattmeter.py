"""CodeCarbon as a meter that fails loudly: joules per component, each with where the number comes from.

Facts about CodeCarbon 3.3 that shape this file: it swallows its own errors and answers None or zero, and it falls back
to a world average without a word, so every answer is checked here and grams are computed elsewhere, from a stated
intensity. Its first start takes two seconds, most of them waiting for a process that asks for the CPU's name, so it
is started in a thread. Its default locking stays: the other setting replaces signal handlers. It bills the whole
machine. Whatever it is not told it takes from files and variables of the user's (~/.codecarbon.config, CODECARBON_*,
a batch system's job), which may double every figure without a word, so it is told everything and reads none of them.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from prunelab.errors import InputError

CPU_SOURCES = {
    "intel_rapl": "rapl",
    "windows_emi": "rapl",
    "intel_power_gadget": "power_gadget",
    "cpu_load": "cpu_load_model",
    "constant": "constant",
}
JOULES_PER_KWH = 3.6e6
# All that decides a figure, or sends or writes anything: CodeCarbon's own defaults, which then nobody's file changes.
SETTINGS = {
    "tracking_mode": "machine", "pue": 1.0, "wue": 0.0, "measure_power_secs": 15.0,
    "force_cpu_power": None, "force_ram_power": None, "force_mode_cpu_load": False, "gpu_ids": None,
    "rapl_include_dram": False, "rapl_prefer_psys": False, "force_carbon_intensity_g_co2e_kwh": None,
    "region": None, "cloud_provider": None, "cloud_region": None, "country_2letter_iso_code": None,
    "allow_multiple_runs": True, "output_methods": [], "output_handlers": [], "output_dir": ".", "metadata": None,
    "emissions_endpoint": None, "electricitymaps_api_token": None, "log_level": "error", "logger_preamble": "",
}  # fmt: skip


class MeterError(InputError):
    """The meter did not measure what it was asked to: the machine's fault or the library's, told in one line."""


class Window(NamedTuple):
    """Gross energy of the whole machine over `seconds`; gpu_j is None without a GPU."""

    seconds: float
    cpu_j: float
    gpu_j: float | None
    ram_j: float


class Wattmeter:
    """CodeCarbon's offline tracker, created once per process, used in windows.

    country: ISO code of three letters, the only thing CodeCarbon must be told; kWh do not depend on it.
    provenance: {"cpu", "gpu", "ram"} → source. Raises InputError for an unknown country, MeterError for anything else.
    """

    def __init__(self, country: str, hardware: list | None = None):
        tracker = _tracker_class()
        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # the constructor logs before it reads log_level
        if not country:
            raise InputError("energy.country: CodeCarbon needs the ISO code of a country, such as DEU")
        self.country = country
        self._tracker = tracker(country_iso_code=country, **SETTINGS)
        if not hasattr(self._tracker, "run_id"):  # the last thing that its constructor sets; it swallows what stops it
            raise MeterError("CodeCarbon did not initialise; its log says why (log level error)")
        if hardware is not None:  # another set of meters, such as a test's counter that replays a recorded trace
            self._tracker._hardware, self._tracker._hardware_initialized = hardware, True
        # A first task loads tables for half a second after its clock has started, and bills that to whoever asked.
        self._tracker.start_task("start")
        data = self._tracker.stop_task()
        self._tracker._tasks.clear()
        if data is None:
            raise MeterError("CodeCarbon did not start; its log says why (log level error)")
        self._check_country(data)
        self.provenance = _provenance(self._tracker._hardware)

    def window(self, work: Callable[[], object]) -> Window:
        """Energy while `work()` runs. Its resolution is that of the counters: seconds on a GPU, 0.1 s for a model."""
        tracker = self._tracker
        tracker.start_task("window")
        if tracker._active_task is None:
            raise MeterError("CodeCarbon did not start a window; its log says why (log level error)")
        start = time.perf_counter()
        try:
            work()
        finally:
            seconds = time.perf_counter() - start
            data = tracker.stop_task()
            tracker._tasks.clear()  # it would keep, and at its end write, every window of a long session
        return self._checked(data, seconds)

    def start(self) -> None:
        """Begin one long reading, sampled every few seconds (a counter may wrap within an hour)."""
        self._tracker.start()
        self._began = time.perf_counter()
        if self._tracker._start_time is None:
            raise MeterError("CodeCarbon did not start; its log says why (log level error)")

    def stop(self) -> Window:
        """End the long reading."""
        seconds = time.perf_counter() - self._began
        self._tracker.stop()
        return self._checked(getattr(self._tracker, "final_emissions_data", None), seconds)

    def _check_country(self, data) -> None:
        if data.country_iso_code != self.country or not data.country_name:  # then it answers with a world average
            raise InputError(f"energy.country: {self.country!r} is unknown to CodeCarbon; expected a code such as DEU")

    def _checked(self, data, seconds: float) -> Window:
        if data is None:
            raise MeterError("CodeCarbon returned nothing for a reading; its log says why (log level error)")
        if abs(data.duration - seconds) > 0.05 * seconds + 0.05:
            raise MeterError(f"CodeCarbon measured {data.duration:.3f} s of a reading that took {seconds:.3f} s")
        self._check_country(data)
        spent = {"cpu": data.cpu_energy, "gpu": data.gpu_energy, "ram": data.ram_energy}
        for part, kwh in spent.items():
            missing = self.provenance[part] != "none" and not kwh > 0
            if not math.isfinite(kwh) or kwh < 0 or missing:
                raise MeterError(
                    f"CodeCarbon read {kwh} kWh for {part} ({self.provenance[part]}) in {seconds:.3f} s: its counter "
                    "stands still or cannot be read; longer energy.window_seconds may help"
                )
        gpu = None if self.provenance["gpu"] == "none" else spent["gpu"] * JOULES_PER_KWH
        return Window(seconds, spent["cpu"] * JOULES_PER_KWH, gpu, spent["ram"] * JOULES_PER_KWH)


def _tracker_class():
    """CodeCarbon's offline tracker, which asks neither its configuration files nor the environment."""
    from codecarbon import OfflineEmissionsTracker, emissions_tracker
    from codecarbon.core import util
    from codecarbon.external import ram

    # Its constructor reads them even if it is told everything, and a file that it cannot read would stop it.
    emissions_tracker.get_hierarchical_config = dict
    # Inside a job it would ask the batch system how much of the machine is the job's; it bills the whole machine here.
    util.SLURM_JOB_ID = ram.SLURM_JOB_ID = None
    return OfflineEmissionsTracker


def _provenance(hardware: list) -> dict[str, str]:
    """Component → source of its number, from CodeCarbon's own list of meters."""
    found = {"cpu": "none", "gpu": "none", "ram": "none"}
    for meter in hardware:
        kind = type(meter).__name__
        if kind == "RAM":
            found["ram"] = "model"
        elif kind == "CPU":
            found["cpu"] = CPU_SOURCES[meter._mode]
        elif kind == "GPU":
            amd = any(type(one).__name__.startswith("AMD") for one in meter.devices.devices)
            found["gpu"] = "amdsmi_counter" if amd else "nvml_counter"
        elif kind == "AppleSiliconChip":
            found[meter.chip_part.lower()] = "powermetrics"
        elif kind == "Raspberry":
            found[meter.chip_part.lower()] = "pmic"
        else:
            raise MeterError(f"CodeCarbon meters with a {kind}, which this version does not know")
    return found


class Starting:
    """A Wattmeter that starts in a thread while the caller does something else."""

    def __init__(self, country: str):
        self._meter: Wattmeter | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, args=(country,), daemon=True)
        self._thread.start()

    def _start(self, country: str) -> None:
        try:
            self._meter = Wattmeter(country)
        except BaseException as error:  # raised again in the caller's thread, by ready()
            self._error = error

    def ready(self) -> Wattmeter:
        """The meter, waited for. Raises what its start raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._meter


class Watch(Starting):
    """A long reading that begins when the meter has started."""

    def _start(self, country: str) -> None:
        super()._start(country)
        if self._error is None:
            self._meter.start()

    def stop(self) -> tuple[Window, dict]:
        """The reading and where its numbers come from."""
        meter = self.ready()
        return meter.stop(), meter.provenance

    def cancel(self) -> None:
        """Stop reading; nobody wants the number any more."""
        self._thread.join()
        if self._meter is not None:
            self._meter._tracker.stop()


def watch_in_background(country: str | None) -> Watch:
    return Watch(country or "")
