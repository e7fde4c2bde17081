"""Score one pruned variant on the reference's windows and compare it with the dense model.

    python -m stages.quality wanda-50 --model models/wanda-50 --reference results/dense --out results/wanda-50

Writes quality.json and windows.safetensors (the loss of every window).
"""

import argparse
from pathlib import Path

from prunelab import errors, files, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", help="its id, such as wanda-50")
    parser.add_argument("--model", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--reference", type=Path, required=True, help="results of its dense model")
    parser.add_argument("--out", type=Path, required=True, help="folder for its results")
    arguments = parser.parse_args(argv)
    score(params.load().quality, arguments)


def score(wanted, arguments) -> None:
    """The work, behind the imports that cost seconds."""
    from safetensors.numpy import save_file

    from prunelab import checkpoint, quality, reference

    dense = reference.load(arguments.reference / "reference.safetensors")
    model = quality.ready(checkpoint.load(arguments.model), dense.facts["dtype"])
    scores = quality.score(
        model,
        dense.windows.tokens,
        arguments.variant,
        batch_tokens=wanted.batch_tokens,
        dense=dense.states if len(dense.states.hidden) else None,
        dense_choice=dense.choice,
    )
    figures = quality.summary(scores, dense.windows, dense.loss, wanted.bootstrap_draws)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with files.whole_file(arguments.out / "windows.safetensors") as partial:
        save_file({"loss": scores.loss, "nll": scores.nll}, partial)
    files.write_json(arguments.out / "quality.json", {"variant": arguments.variant, **dense.facts, **figures})
    print(
        f"{arguments.variant}: loss {figures['loss']:.4f} nats a token, {figures['loss_diff']:+.4f} to dense "
        f"({figures['loss_diff_lo']} … {figures['loss_diff_hi']})",
        flush=True,
    )


if __name__ == "__main__":
    errors.exit_cleanly(main)
