"""The energy bill: every stage books what it used, and a pruned variant may repay it.

    with energy.stage_meter("prune-wanda-50", "results/energy/prune-wanda-50.json"):
        …                                       # the whole stage, slow imports included

Short stages read hardware counters directly (RAPL, NVML: microseconds) and otherwise book their time, which `joules`
prices with the watts that a measuring session saw. Long ones (`long=True`) run CodeCarbon beside them, whose start
takes seconds. Only the standard library is imported here, so booking costs a short stage nothing;
and nothing of the other measuring modules, so that an edit to those trains no model again.
"""

import contextlib
import os
import time
from pathlib import Path

from prunelab.disk import files, places

PROCESSORS = ("cpu", "gpu")  # where the work is done; memory is always a model, the same for every variant
MEASURED = {"rapl", "nvml_counter", "amdsmi_counter", "power_gadget", "powermetrics", "pmic"}


def headline_components(provenance: dict) -> list[str]:
    """Which components an energy figure sums: never a measured one and a modelled one.

    provenance: component → source, "none" where the machine has no such component. The measured processors where there
    are any, else all modelled ones.
    """
    present = [part for part in PROCESSORS if provenance.get(part, "none") != "none"]
    return [part for part in present if provenance[part] in MEASURED] or present


def is_estimated(provenance: dict) -> bool:
    """True when the headline figure is a model of time and load, not a measurement."""
    return not any(provenance[part] in MEASURED for part in headline_components(provenance))


def grams(joules: float, grams_per_kwh: float) -> float:
    """CO2 equivalent of an energy, at a stated intensity of the grid."""
    return joules / 3.6e6 * grams_per_kwh


def litres(joules: float, litres_per_kwh: float) -> float:
    """Fresh water consumed for an energy, at a stated intensity; what that covers, its source says."""
    return joules / 3.6e6 * litres_per_kwh


@contextlib.contextmanager
def stage_meter(name: str, out, *, long: bool = False, country: str | None = None, root: Path = Path("/")):
    """Book what the enclosed stage used in the JSON file `out` (None: nowhere); a stage that fails books nothing.

    Keys: name, began_unix_s, seconds, cpu_seconds (with child processes), cpu_share (its part of what the machine's
    cores did; None where unknown), cpu_j, gpu_j, ram_j (gross, whole machine; None where there is no
    meter), provenance, meter ("codecarbon" | "counters" | "time"). `long` needs `country` (ISO code), because
    CodeCarbon does. Raises InputError, before the stage begins, where `out` is another's.
    """
    if out is None:
        yield
        return
    places.check_json(out, "meter")
    if long:
        from prunelab.energy import wattmeter

        watching = wattmeter.watch_in_background(country)
    counters = {} if long else read_counters(root)
    began = round(time.time(), 3)
    wall, own, busy = time.perf_counter(), _cpu_seconds(), busy_seconds(root)
    try:
        yield
    except BaseException:
        if long:
            watching.cancel()
        raise
    seconds, own = time.perf_counter() - wall, _cpu_seconds() - own
    busy = busy_seconds(root) - busy if busy is not None else None
    booking = {"name": name, "began_unix_s": began, "seconds": seconds, "cpu_seconds": own}
    booking["cpu_share"] = min(1.0, own / busy) if busy else None
    if long:
        window, provenance = watching.stop()
        # The meter starts two seconds late; what it missed was like the rest, as far as anybody knows.
        scale = seconds / window.seconds
        used = {p: None if (j := getattr(window, f"{p}_j")) is None else j * scale for p in ("cpu", "gpu", "ram")}
        meter = "codecarbon"
    else:
        used = {part: _spent(before, after) for part, before, after in _pairs(counters, read_counters(root))}
        provenance = {part: {"cpu": "rapl", "gpu": "nvml_counter"}[part] for part in used}
        meter = "counters" if used else "time"
    booking |= {f"{part}_j": used.get(part) for part in ("cpu", "gpu", "ram")}
    files.write_json(out, booking | {"provenance": provenance, "meter": meter})


def joules(booking: dict, session: dict) -> float | None:
    """Joules of a booked stage in the session's components; None where the booking and session cannot say.

    session: the `power` of an efficiency.json: `components`, `cores`, and per component `idle_w` and `busy_w`. A
    component that the stage read itself is taken as read; one that is only modelled is priced by the stage's time:
    idle watts plus its share of the way to the busy ones. Stages that ran side by side read the same machine, so what
    the processor read is scaled by the stage's share of the work. Where a token is estimated above idle (`above_idle`),
    idle watts are taken off the stages too, or the bill and what repays it would be unlike things.
    """
    total = 0.0
    for part in session["components"]:
        read, watts = booking.get(f"{part}_j"), session["watts"].get(part)
        idle_j = booking["seconds"] * watts["idle_w"] if session.get("above_idle") and watts else 0.0
        if read is not None:
            share = booking.get("cpu_share") if part == "cpu" else None
            total += max(0.0, read - idle_j) * (1.0 if share is None else share)
        elif part == "cpu" and watts:
            load = min(1.0, booking["cpu_seconds"] / max(booking["seconds"] * session["cores"], 1e-9))
            gross_w = watts["idle_w"] + (watts["busy_w"] - watts["idle_w"]) * load
            total += booking["seconds"] * gross_w - idle_j
        else:
            return None
    return total


def bill(bookings: dict[str, dict], session: dict) -> dict:
    """The study's bill in the session's components: `stages` (name → joules, None where unknown), `total_j`, the
    `unpriced` names that the total lacks, and `estimated`: True when any part of it is a model of time.

    bookings: name → what stage_meter wrote. session: the `power` of the dense model's efficiency.json.
    """
    stages = {name: joules(booking, session) for name, booking in bookings.items()}
    modelled = [
        name
        for name, booking in bookings.items()
        if any(booking["provenance"].get(part, "none") not in MEASURED for part in session["components"])
    ]
    known = [value for value in stages.values() if value is not None]
    unpriced = [name for name, value in stages.items() if value is None]
    return {"stages": stages, "total_j": sum(known), "unpriced": unpriced, "estimated": bool(modelled)}


def break_even(
    study_j: float, saving_j: tuple[float, float, float], verdict: str = "less"
) -> tuple[float, float, float] | None:
    """Generated tokens after which a variant has repaid the study: (tokens, lo, hi); None means never.

    study_j: what training, pruning and measuring cost. saving_j: (mean, lo, hi) of J_dense - J_variant per token.
    verdict: the variant's `decode_j_verdict`. Never, when the saving may be zero: its interval reaches zero or is
    unknown, or the session's A/A test cannot tell it from nothing (the verdict is not "less").
    """
    mean, lo, hi = saving_j
    if verdict != "less" or not lo > 0:
        return None
    return study_j / mean, study_j / hi, study_j / lo


def read_counters(root: Path = Path("/")) -> dict[str, dict[str, tuple[float, float]]]:
    """Energy counters this process may read: component → counter's name → (joules now, joules at which it wraps)."""
    read: dict[str, dict[str, tuple[float, float]]] = {}
    for package in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*")):
        energy = package / "energy_uj"
        # Only whole packages: their sub-domains (intel-rapl:0:1) are part of them. Root alone may read, by default.
        if package.name.count(":") == 1 and energy.exists() and os.access(energy, os.R_OK):
            wrap = float((package / "max_energy_range_uj").read_text()) / 1e6
            read.setdefault("cpu", {})[package.name] = (float(energy.read_text()) / 1e6, wrap)
    if (root / "proc/driver/nvidia").exists():
        read |= _nvidia_counters()
    return read


def busy_seconds(root: Path = Path("/")) -> float | None:
    """Seconds, summed over cores since boot, in which the machine's cores did work for somebody; None where unknown."""
    file = root / "proc/stat"
    if not file.exists():
        return None
    fields = file.read_text().partition("\n")[0].split()
    user, nice, system, _idle, _waiting, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _nvidia_counters() -> dict:
    """Of the GPUs that CUDA_VISIBLE_DEVICES names, by index or the beginning of their UUID; of all where it names none.

    As CodeCarbon takes them: on a machine of several workers, each with a GPU of its own, both bill the same one.
    """
    import pynvml

    pynvml.nvmlInit()
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    handles = {index: pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())}
    if named:
        uuids = {index: pynvml.nvmlDeviceGetUUID(handle) for index, handle in handles.items()}
        handles = {
            index: handle
            for index, handle in handles.items()
            if any(str(index) == one or (len(one) > 4 and uuids[index].startswith(one)) for one in named)
        }
    values = {str(i): pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for i, handle in handles.items()}
    return {"gpu": {name: (value, float("inf")) for name, value in values.items()}} if values else {}


def _pairs(before: dict, after: dict):
    return ((part, before[part], after[part]) for part in before if part in after)


def _spent(before: dict, after: dict) -> float:
    """Joules between two readings of a component's counters; a counter that went down has wrapped once."""
    total = 0.0
    for name, (start, wrap) in before.items():
        end = after[name][0]
        total += end - start if end >= start else end + wrap - start
    return total


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
