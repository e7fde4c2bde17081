"""The verdict on what the paper says of this system: moderate pruning keeps the error, past 30 % it rises sharply."""

from prunelab.fragments import Claim, interval, rate_name, rate_names
from prunelab.tasks.price.report.points import MODERATE, Point, worse_from

SOON = 0.505  # a rise from here on is one that follows 30 %
CONTROLS = {"shuffled_pictures": "with the pictures of others", "blank_text": "without its words"}


def worth(dense: dict) -> Claim:
    """Whether the dense model, of whose quality.json `dense` is, says more than no model, and looks and reads for it.

    Where it does not, what pruning costs it tells nothing.
    """
    question = "Is the dense model worth pruning: better than the mean price, and worse without picture or words?"
    mean = (dense.get("baselines") or {}).get("mean") or {}
    controls = dense.get("controls") or {}
    if mean.get("dense_diff_hi") is None or any(name not in controls for name in CONTROLS):
        return Claim(question, "open", "Its baselines or controls have no interval.")
    better = mean["dense_diff_hi"] < 0
    worse_by = {name: controls[name].get("mae_diff_lo") for name in CONTROLS}
    misses = [words for name, words in CONTROLS.items() if not (worse_by[name] or 0) > 0]
    first = f"Its error is {dense['mae'] / mean['mae']:.2f} × that of the mean price"
    first += "." if better else ", whose interval does not tell the two apart: what pruning costs it tells nothing."
    found = [f"{controls[name]['times_own']:.2f} × its own {words}" for name, words in CONTROLS.items()]
    second = f" It is {' and '.join(found)}"
    second += f"; {' and '.join(misses)} nothing is measurably lost." if misses else "."
    status = "does not hold" if not better else "holds in part" if misses else "holds"
    return Claim(question, status, first + second)


def claims(found: dict[str, list[Point]], sharp_percent: float) -> list[Claim]:
    """One a method; sharp_percent: what is called a sharp rise (`report.sharp_rise_percent`)."""
    return [_claim(method, points, sharp_percent) for method, points in found.items()]


def _claim(method: str, points: list[Point], sharp: float) -> Claim:
    question = f"{method}: is the error kept up to 30 %, and does it rise sharply past it?"
    known = [point for point in points if point.increase[1] == point.increase[1]]
    before = [point for point in known if point.sparsity <= MODERATE]
    behind = [point for point in known if point.sparsity > MODERATE]
    if not before or not behind:
        missing = "up to" if not before else "past"
        return Claim(question, "open", f"`{method}` was measured at no rate {missing} 30 % with an interval.")
    hurt = [point for point in before if point.sign > 0]
    steep = next((point for point in known if point.increase[0] > sharp and point.sign > 0), None)
    answer = f"{_kept(method, before, hurt)}; {_rises(steep, known[-1], sharp)}. {worse(points)}"
    rises_late = steep is not None and steep.sparsity > MODERATE
    if not hurt and rises_late and steep.sparsity <= SOON:
        status = "holds"
    elif rises_late:
        status = "holds in part"
    else:
        status = "does not hold"
    return Claim(question, status, answer, tuple(_figure(point) for point in known))


def _kept(method: str, before: list[Point], hurt: list[Point]) -> str:
    last = before[-1]
    if not hurt:
        rates = rate_names([point.rate for point in before])
        return f"`{method}` keeps the error at {rates}, where the difference's interval holds zero or lies below it"
    return (
        f"`{method}` is already worse than dense at {rate_names([point.rate for point in hurt])} "
        f"({interval(last.increase)} % at {rate_name(last.rate)})"
    )


def _rises(steep: Point | None, last: Point, sharp: float) -> str:
    if steep is None:
        return f"it is nowhere more than {sharp:g} % above dense, {interval(last.increase)} % at {rate_name(last.rate)}"
    return f"it is more than {sharp:g} % above dense from {rate_name(steep.rate)} on ({interval(steep.increase)} %)"


def worse(points: list[Point]) -> str:
    """From where on the error is significantly worse, in a sentence."""
    first = worse_from(points)
    if first is None:
        return f"At its highest rate, {rate_name(points[-1].rate)}, the error is not significantly worse than dense's."
    if len(points) > 1 and first is points[0]:
        return f"It is significantly worse than dense's at every rate, {rate_name(first.rate)} the lowest."
    return f"It is significantly worse than dense's from {rate_name(first.rate)} on."


def _figure(point: Point) -> tuple[str, str, int]:
    return rate_name(point.rate), f"{interval(point.increase)} %", point.sign
