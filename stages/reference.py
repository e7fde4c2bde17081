"""Score the dense model and its unpruned controls, and leave what the variants are compared with.

    python -m stages.reference --dense models/dense --data data/fetched --out results

Writes results/dense/quality.json and reference.safetensors, and quality.json of each control (`prune.controls`).
"""

import argparse
from pathlib import Path

from prunelab import errors, files, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, required=True, help="folder that the fetch stage wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of all results")
    parser.add_argument("--seed", metavar="TAG", help="replica, such as s2")
    arguments = parser.parse_args(argv)
    settings = params.load()
    text_file = arguments.data / "text" / "test.txt"
    if not text_file.is_file():
        raise errors.InputError(f"{text_file}: no such file; run the fetch stage first (dvc repro fetch)")
    score(settings, arguments, text_file.read_bytes())


def score(settings, arguments, text: bytes) -> None:
    """The work, behind the imports that cost seconds."""
    import hashlib

    import numpy as np
    from transformers import AutoTokenizer

    from prunelab import checkpoint, quality, reference, windows

    wanted, suffix = settings.quality, f"-{arguments.seed}" if arguments.seed else ""
    dtype = quality.precision(wanted.precision)
    model = quality.ready(checkpoint.load(arguments.dense), dtype)
    quality.check_context(model, wanted.context)
    tokenised = windows.tokenise(AutoTokenizer.from_pretrained(arguments.dense), text.decode("utf-8"))
    cut = windows.cut(*tokenised, wanted.context, wanted.max_windows, first=wanted.kl_windows)
    facts = {
        "split": "test",
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "context": wanted.context,
        "dtype": dtype,
    }

    def leave(name: str, scores, dense_loss) -> None:
        figures = quality.summary(scores, cut, dense_loss, wanted.bootstrap_draws)
        files.write_json(arguments.out / name / "quality.json", {"variant": name, **facts, **figures})
        print(
            f"{name}: loss {figures['loss']:.4f} nats a token, {figures['bits_per_byte']:.4f} bits a byte", flush=True
        )

    name = f"dense{suffix}"
    dense = quality.score(model, cut.tokens, name, batch_tokens=wanted.batch_tokens, leave=wanted.kl_windows)
    kept = reference.Reference(facts, cut, dense.loss, dense.nll, dense.choice, dense.states, {})
    (arguments.out / name).mkdir(parents=True, exist_ok=True)
    reference.save(arguments.out / name / "reference.safetensors", kept)
    # By definition, and not measured: a model does not differ from itself.
    leave(name, dense._replace(kl=np.zeros(1), agreement=np.ones(1)), dense.loss)

    for control in settings.prune.controls:
        name = f"dense-{control}{suffix}"
        model = quality.ready(_control(checkpoint.load(arguments.dense), arguments.dense, control), dtype)
        scores = quality.score(
            model,
            cut.tokens,
            name,
            batch_tokens=wanted.batch_tokens,
            dense=dense.states if wanted.kl_windows else None,
            dense_choice=dense.choice,
        )
        leave(name, scores, dense.loss)


CONTROLS = {"average": "history/average.safetensors", "best": "best/model.safetensors"}


def _control(model, folder: Path, control: str):
    """The dense model with the weights of a control in place of its own."""
    from safetensors.torch import load_file

    path = folder / CONTROLS[control]
    if not path.is_file():
        raise errors.InputError(
            f"{path}: no such file, so there is no control {control!r}; take it out of prune.controls"
        )
    found = model.load_state_dict(load_file(path), strict=False)
    if found.unexpected_keys:
        raise errors.InputError(f"{path}: tensor {found.unexpected_keys[0]!r} does not belong to {folder}")
    return model


if __name__ == "__main__":
    errors.exit_cleanly(main)
