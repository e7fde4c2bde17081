"""What else the machine did while a block was timed: counted for each block, judged by a rule, told in words.

Counters of the kernel, read before and after a block. None of them is a reading of the model.
"""

import resource
import time

from prunelab.efficiency import device
from prunelab.energy import energy


def counters() -> dict:
    """All counters now, in seconds but for `switches`; None where the system does not tell."""
    usage, busy = resource.getrusage(resource.RUSAGE_SELF), energy.busy_seconds()
    return {
        "waited_s": device.waiting_seconds(),
        "steal_s": device.steal_seconds(),
        "others_s": None if busy is None else busy - usage.ru_utime - usage.ru_stime,
        "switches": usage.ru_nivcsw,
        "block_s": time.perf_counter(),
    }


def since(before: dict) -> dict:
    """What happened since `before`: `waited_s` (all threads of this process, for a core that others had), `steal_s`
    (taken by the host), `others_s` (of the cores' time, used by other processes; in ticks of 10 ms), `switches`
    (involuntary, of this process) and `block_s` (the time that has passed)."""
    return {name: _difference(value, before[name]) for name, value in counters().items()}


def disturbed(taken_off_s: float, waited_s: float | None, steal_s: float | None, switches: int, block_s: float) -> bool:
    """Was a block of `block_s` seconds disturbed? Fixed before any measuring; looks at no reading.

    Yes, when the measuring thread waited more than 20 % of it for a core (taken_off_s: that is taken off the readings,
    but the neighbour's traces in the caches are not); when its helper threads waited more than 2 % of it (for them
    nothing can be taken off); or when the host took more than 2 % of the cores' time and more than one tick of that
    clock (10 ms). A system that does not tell the waiting is judged by involuntary context switches: more than 4, and
    more than 40 a second.
    """
    if waited_s is None:
        others = switches > 4 and switches > 40 * block_s
    else:
        others = taken_off_s > 0.2 * block_s or waited_s - taken_off_s > 0.02 * block_s
    return others or (steal_s is not None and steal_s > 0.015 and steal_s > 0.02 * block_s * device.usable_cores())


def shares(rows: list[dict]) -> dict:
    """Of all blocks in `rows` (latency.interleave's): `waited_share` of their time, `steal_share` of the cores' time,
    `others_cores`, the cores that other processes kept busy, and `dropped_share` of the blocks. None: not told."""
    blocks = rows[0::4]
    seconds = sum(row["block_s"] for row in blocks)

    def total(name: str, of: float) -> float | None:
        values = [row[name] for row in blocks]
        return None if None in values else sum(values) / of

    return {
        "waited_share": total("waited_s", seconds),
        "steal_share": total("steal_s", seconds * device.usable_cores()),
        "others_cores": total("others_s", seconds),
        "dropped_share": sum(row["dropped"] for row in blocks) / len(blocks),
    }


def told(found: dict) -> str:
    """What `shares` found, in words; what is next to nothing is left out."""
    words = {
        "others_cores": "other processes kept {:.1f} cores busy",
        "waited_share": "this one waited {:.0%} of the time for a core",
        "steal_share": "the host took {:.0%} of the cores' time",
        "dropped_share": "{:.0%} of the blocks were disturbed",
    }
    least = {"others_cores": 0.05, "waited_share": 0.005, "steal_share": 0.005, "dropped_share": 0.005}
    notable = [text.format(found[name]) for name, text in words.items() if (found[name] or 0) >= least[name]]
    return ", ".join(notable) or "nothing that this machine counts disturbed it, so a longer efficiency.seconds may do"


def _difference(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before
