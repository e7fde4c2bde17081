"""How far a training is: its own epochs, loss, speed and the time left, on a terminal as a bar, else as lines."""

import math
import sys
import time

from tqdm import tqdm

EVERY_SECONDS = 5.0  # between two lines at the least
LINES = 200  # of a long run at the most, or hours of training would bury what else stands in a log


class Progress:
    """Tell `step()` of every optimizer step that was done, and `close()` at the end.

    Args:
        steps: of the whole run; a continued one is told from the step behind which it continues.
        steps_per_epoch: None where the run has no epochs; then steps are told.
        name: what is trained, where that is not plain.
    """

    def __init__(self, steps: int, tokens_per_step: int, steps_per_epoch: int | None = None, name: str = ""):
        self._steps, self._tokens_per_step, self._steps_per_epoch = steps, tokens_per_step, steps_per_epoch
        self._name = f"{name}: " if name else ""
        self._began = self._told_at = time.monotonic()
        self._first: int | None = None  # steps that were done before this run of the program
        self._step = self._told_step = 0
        self._losses: list[float] = []  # since the last line
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, bar_format="{bar} {desc}", file=sys.stderr, disable=not on_terminal, leave=False)

    def step(self, step: int, loss: float) -> None:
        """`step` (1-based) is done; `loss`: of its batch, nats a token."""
        if self._first is None:
            self._first = self._step = step - 1
            self._bar.update(self._first)
        self._losses.append(loss)
        self._bar.update(step - self._step)
        self._step = step
        now = time.monotonic()
        pause = 1.0 if not self._bar.disable else max(EVERY_SECONDS, self._seconds_in_all(now) / LINES)
        if step == self._steps or now - self._told_at >= pause:
            self._tell(now)

    def close(self) -> None:
        """The end, which early stopping may bring before the last step."""
        if self._losses:
            self._tell(time.monotonic())
        self._bar.close()

    def _tell(self, now: float) -> None:
        line = self.line(now - self._began)
        self._told_at, self._losses = now, []
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.set_description_str(line)

    def line(self, seconds: float) -> str:
        """`epoch 2/20 · loss 2.520 · 84 k tokens/s · 1:10 left`, `seconds` after the beginning.

        Loss: the mean since the line before. Speed and time left: of the whole run, evaluations included.
        """
        done = self._step - self._first
        at = f"step {self._step}/{self._steps}"
        if self._steps_per_epoch:
            epochs = math.ceil(self._steps / self._steps_per_epoch)
            at = f"epoch {math.ceil(self._step / self._steps_per_epoch)}/{epochs}"
        speed = done * self._tokens_per_step / max(seconds, 1e-9)
        left = round(seconds / done * (self._steps - self._step))
        loss = sum(self._losses) / len(self._losses)
        return f"{self._name}{at} · loss {loss:.3f} · {_thousands(speed)} tokens/s · {left // 60}:{left % 60:02} left"

    def _seconds_in_all(self, now: float) -> float:
        return (now - self._began) / (self._step - self._first) * (self._steps - self._first)


def _thousands(count: float) -> str:
    return f"{count / 1000:.{0 if count >= 10_000 else 1}f} k" if count >= 1000 else f"{count:.0f}"
