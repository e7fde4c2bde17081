"""Which stage may start when: independent ones side by side, measurements alone. Pure bookkeeping, no processes."""

EXCLUSIVE = ("efficiency", "runtimes")  # stages whose name starts so measure time and energy: nothing runs beside them


class Schedule:
    """Stages to run, with what each needs; ask `ready()`, tell `started()` and `finished()`, until `over`."""

    def __init__(self, needs: dict[str, set[str]], workers: int):
        """needs: stage → the stages of this very schedule that must have succeeded before. workers: at most so many."""
        self.needs = needs
        self.workers = workers
        self.pending = dict.fromkeys(needs)  # ordered, so that a study runs in the same order every time
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def ready(self) -> list[str]:
        """The stages to start now. A measurement waits until nothing else runs or could run."""
        possible = [name for name in self.pending if self.needs[name] <= self.done]
        if any(is_exclusive(name) for name in self.running):
            return []
        together = [name for name in possible if not is_exclusive(name)]
        if together or self.running:
            return together[: self.workers - len(self.running)]
        return possible[:1]

    def started(self, name: str) -> None:
        del self.pending[name]
        self.running.add(name)

    def finished(self, name: str, succeeded: bool) -> None:
        self.running.remove(name)
        (self.done if succeeded else self.failed).add(name)

    @property
    def over(self) -> bool:
        """Nothing runs and nothing can start: what is still pending waits for a stage that failed."""
        return not self.running and not self.ready()


def is_exclusive(name: str) -> bool:
    return name.startswith(EXCLUSIVE)


def remaining_seconds(waiting: list[str], seconds: dict[str, float], workers: int) -> float | None:
    """An estimate for the stages `waiting` from the `seconds` that finished ones took; None before any finished.

    A stage counts as the mean of its kind (`prune@…`), a kind not seen yet as the mean of all; those that
    run side by side are shared between the workers.
    """
    if not seconds:
        return None
    kinds: dict[str, list[float]] = {}
    for name, taken in seconds.items():
        kinds.setdefault(_kind(name), []).append(taken)
    overall = sum(seconds.values()) / len(seconds)
    total = 0.0
    for name in waiting:
        own = kinds.get(_kind(name))
        expected = sum(own) / len(own) if own else overall
        total += expected if is_exclusive(name) else expected / workers
    return total


def _kind(name: str) -> str:
    return name.partition("@")[0]
