"""What following every weight costs: a training step of the 10.7 M-parameter model with a tick, against one without.

    python -m benchmarks.tracking [--rounds 12] [--batch 16]
    python -m benchmarks.tracking --data data/fetched [--rounds 12]     the study of params.yaml, on what it fetched

A tick at *every* step is the worst case (the default study ticks once an epoch). Steps with and without alternate
(A B B A); printed is the median of the blocks' ratios and the tick's own time (target: at most 1 % of a step). The
batch is a quarter of paper-10m's by default, so that a run takes minutes on two cores; a larger one makes a step longer
and the tick no slower, so the share printed is an upper bound for the study. With `--data` model, batches and ticks are
those of the study that is there, and `study_share` is what its own ticks cost of its training, times with all threads.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from prunelab import tasks
from prunelab.models import models
from prunelab.study import params, studies
from prunelab.training.tracker import WeightHistory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--data", type=Path, help="what the stage fetch wrote for params.yaml")
    arguments = parser.parse_args()
    settings = params.load() if arguments.data else studies.merge("paper-10m").settings
    model, batch, steps = of_study(settings, arguments.data) if arguments.data else of_paper(settings, arguments.batch)
    model.train()
    history = WeightHistory(
        model,
        [tensor["name"] for tensor in models.prunable_tensors(model, settings.prune.towers)],
        trajectories=settings.train.tracker.trajectories.random,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(with_tick: bool) -> float:
        begin = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if with_tick:
            history.tick(model)
        return time.perf_counter() - begin

    for with_tick in (False, True, False, True):
        step(with_tick)  # burn in
    ratios, without = [], []
    for number in range(arguments.rounds):
        order = (True, False, False, True) if number % 2 else (False, True, True, False)
        times = [(with_tick, step(with_tick)) for with_tick in order]
        followed = sum(seconds for with_tick, seconds in times if with_tick)
        bare = sum(seconds for with_tick, seconds in times if not with_tick)
        ratios.append(followed / bare)
        without.append(bare / 2)
    ticks = []
    for _ in range(10):
        begin = time.perf_counter()
        history.tick(model)
        ticks.append(time.perf_counter() - begin)
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_s": round(statistics.median(without), 4),
        "tick_s": round(statistics.median(ticks), 4),
        "tick_share": round(statistics.median(ticks) / statistics.median(without), 4),
        "ratio": round(statistics.median(ratios), 4),
        **({"study_share": round(statistics.median(ticks) / statistics.median(without) / steps, 6)} if steps else {}),
    }))  # fmt: skip


def of_paper(settings, batch: int):
    """(model, batch, None) of the paper's size, on random characters; how many steps an epoch has its text decides."""
    train = settings.train
    model = models.build(train.architecture, {**train.config, "vocab_size": 85}, bos_token_id=None, eos_token_id=None)
    ids = torch.randint(85, (batch, train.context))
    return model, {"input_ids": ids, "labels": ids}, None


def of_study(settings, data: Path):
    """(model, batch, steps a tick) as the stage train has them at its first step."""
    task, train = tasks.of(settings.task), settings.train
    model, processor, _, _ = task.start(settings, data, settings.seed)
    found = task.examples(settings, processor, data, settings.seed)
    rows = [found.train[index] for index in range(train.batch_size)]
    tick = train.tracker
    return model, found.collate(rows), tick.every * (found.train.steps_per_epoch if tick.tick == "epoch" else 1)


if __name__ == "__main__":
    main()
