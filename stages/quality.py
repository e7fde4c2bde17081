"""Score one variant on the reference's windows and compare it with dense.

    python -m stages.quality wanda-50 --model models/s1/wanda-50 --reference results/s1/dense --out results/s1/wanda-50

Writes quality.json and windows.safetensors (the loss of every window).
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.disk import files, places
from prunelab.energy import energy
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", help="its id, such as wanda-50")
    parser.add_argument("--model", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--reference", type=Path, required=True, help="results of its dense model")
    parser.add_argument("--out", type=Path, required=True, help="folder for its results")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    arguments = parser.parse_args(argv)
    places.check_shared(arguments.out, arguments.model, arguments.reference)
    with energy.stage_meter(f"quality-{arguments.variant}", arguments.energy):
        score(params.load().quality, arguments)


def score(wanted, arguments) -> None:
    """The work, behind the imports that cost seconds."""
    from safetensors.numpy import save_file

    from prunelab.quality import decoded, probes, quality, reference
    from prunelab.quantised import opening

    dense = reference.load(arguments.reference / "reference.safetensors")
    reference.check(dense, wanted)
    reference.check_model(dense, arguments.model, arguments.variant)
    model = quality.ready(opening.load(arguments.model))
    scores = quality.score(
        model,
        dense.windows.tokens,
        arguments.variant,
        batch_tokens=wanted.batch_tokens,
        dense=dense.states if len(dense.states.hidden) else None,
        dense_choice=dense.choice,
    )
    answers = probes.ask(model, arguments.model, arguments.variant, dense.extra, wanted)
    figures = reference.figures(scores, dense, wanted) | probes.figures(answers, dense.extra, wanted)
    figures |= {"dtype": quality.precision(model), **decoded.figures(model, dense.windows.tokens, arguments.variant)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    with files.whole_file(arguments.out / "windows.safetensors") as partial:
        save_file({"loss": scores.loss, "nll": scores.nll}, partial)
    files.write_json(arguments.out / "quality.json", {"variant": arguments.variant, **figures})
    print(
        f"{arguments.variant}: loss {figures['loss']:.4f} nats a token, to dense {figures['loss_diff']:+.4f} "
        f"({_signed(figures['loss_diff_lo'])} … {_signed(figures['loss_diff_hi'])})",
        flush=True,
    )


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.4f}"


if __name__ == "__main__":
    errors.exit_cleanly(main)
