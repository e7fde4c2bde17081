"""How long a study's sets of questions take, and what each of its models gets right of them.

    python -m benchmarks.answering [--models models/s1] [--only dense magnitude-50 …]

Every model of the folder, dense first, answers all sets that params.yaml names, one model after the other with every
core, as the stage quality asks them but for everything else that this stage scores. Loading is timed with it. Printed
are seconds, the accuracy over the sets in which dense is above chance, and its paired difference to dense; then the
sets themselves, of dense. The last line is JSON. Target: dense and twelve variants of SmolLM2 in 25 minutes on 2 cores.
"""

import argparse
import json
import time
from pathlib import Path

from prunelab.errors import InputError, exit_cleanly
from prunelab.fragments import interval
from prunelab.models import checkpoint, loading
from prunelab.quality import quality
from prunelab.quality.answers import pooling, scoring
from prunelab.recipes.variants import DENSE
from prunelab.study import params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=Path("models/s1"), help="folder of a seed's models")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these, and dense")
    arguments = parser.parse_args()
    settings = params.load().quality
    there = [path.name for path in sorted(arguments.models.iterdir()) if (path / "config.json").exists()]
    if unknown := set(arguments.only or ()) - set(there):
        raise InputError(f"--only: {', '.join(sorted(unknown))}: no such model in {arguments.models}")
    others = [name for name in there if name != DENSE and (not arguments.only or name in arguments.only)]
    dense, sets, rows = None, [], []
    for name in (DENSE, *others):
        begin = time.perf_counter()
        answers = scoring.evaluate(
            quality.ready(checkpoint.load(arguments.models / name)),
            loading.tokenizer_of(arguments.models / DENSE, DENSE),
            settings.questions.names,
            name,
            limit=settings.questions.limit,
            chat_setting=settings.questions.chat,
            batch_tokens=settings.batch_tokens,
        )
        seconds = time.perf_counter() - begin
        if dense is None:
            dense = {one.figures["task"]: one.scores for one in answers}
            sets = [one.figures | pooling.beside_chance(one.figures, one.scores) for one in answers]
        found = pooling.pooled(answers, dense, settings.bootstrap_draws)
        rows.append({"variant": name, "seconds": round(seconds, 1), **found})
        print(f"{name:28} {seconds:6.1f} s   {told(found)}", flush=True)
    for one in sets:
        word = "above" if one["dense_above_chance"] else "not above"
        print(
            f"{one['task']:28} {one['acc']:.3f} ± {one['acc_stderr']:.3f} of dense, {word} chance ({one['chance']:.2f})"
        )
    minutes = sum(row["seconds"] for row in rows) / 60
    print(f"{len(rows)} models: {minutes:.1f} min")
    print(json.dumps({"minutes": round(minutes, 2), "models": rows}))


def told(found: dict) -> str:
    """A model's figures in a line."""
    if not found["pooled_tasks"]:
        return "no set in which dense is above chance"
    ends = [found[f"pooled_accuracy_diff{end}"] for end in ("", "_lo", "_hi")]
    return (
        f"{100 * found['pooled_accuracy']:.1f} ± {100 * found['pooled_accuracy_stderr']:.1f} % of "
        f"{found['pooled_questions']} right, to dense {interval([100 * end for end in ends], '+.1f')} points; "
        f"right choice {found['pooled_right_probability']:.3f}"
    )


if __name__ == "__main__":
    exit_cleanly(main)
