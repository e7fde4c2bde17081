"""Score the dense model, and leave what the variants and controls are compared with.

    python -m stages.reference --dense models/s1/dense --data data/fetched --out results/s1/dense

Writes quality.json and reference.safetensors.
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.disk import files, places
from prunelab.energy import energy
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--data", type=Path, required=True, help="folder that the fetch stage wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of its results")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    arguments = parser.parse_args(argv)
    places.check_shared(arguments.out, arguments.dense, arguments.data)
    with energy.stage_meter("reference", arguments.energy):
        score_all(arguments)


def score_all(arguments) -> None:
    settings = params.load()
    text_file = arguments.data / "text" / "test.txt"
    if not text_file.is_file():
        raise errors.InputError(f"{text_file}: no such file; run the fetch stage first (dvc repro fetch)")
    text = text_file.read_bytes()
    # Behind the checks above, because these imports cost seconds.
    import hashlib

    import numpy as np

    from prunelab.models import checkpoint, loading
    from prunelab.models.tensors import identity
    from prunelab.quality import probes, quality, reference, windows

    wanted = settings.quality
    model = quality.ready(checkpoint.load(arguments.dense))
    quality.check_context(model, wanted.context)
    loading.require_causal(model, arguments.dense)
    tokenizer = loading.tokenizer_of(arguments.dense, arguments.dense)
    tokenised = windows.tokenise(tokenizer, text.decode("utf-8"))
    cut = windows.cut(*tokenised, wanted.context, wanted.max_windows, first=wanted.kl_windows)
    asked = probes.prepare(tokenizer, text, cut, wanted)

    name = "dense"
    scores = quality.score(model, cut.tokens, name, batch_tokens=wanted.batch_tokens, leave=wanted.kl_windows)
    answers = probes.ask(model, arguments.dense, name, asked, wanted)
    facts = {
        "dense_sha256": identity(arguments.dense),
        "libraries": reference.libraries(),
        "split": "test",
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "context": wanted.context,
        "dtype": quality.precision(model),
    }
    extra = asked | probes.kept(answers)
    dense = reference.Reference(
        facts, cut, scores.loss, scores.nll, scores.choice, scores.states, extra, reference.asked(wanted)
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    reference.save(arguments.out / "reference.safetensors", dense)
    # By definition, and not measured: a model does not differ from itself.
    scores = scores._replace(kl=np.zeros(1), agreement=np.ones(1))
    figures = reference.figures(scores, dense, wanted) | probes.figures(answers, dense.extra, wanted)
    files.write_json(arguments.out / "quality.json", {"variant": name, **figures})
    print(f"{name}: loss {figures['loss']:.4f} nats a token, {figures['bits_per_byte']:.4f} bits a byte", flush=True)


if __name__ == "__main__":
    errors.exit_cleanly(main)
