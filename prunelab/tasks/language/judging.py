"""How good a language model is: its loss on windows of a text that training never saw, and what else it is asked."""

from pathlib import Path

from prunelab.disk import files
from prunelab.errors import InputError


def reference(settings, dense: Path, data: Path, probes_folder: Path, out: Path) -> None:
    """Score the dense model: quality.json and reference.safetensors, which variants are compared with, into `out`."""
    text_file = data / "text" / "test.txt"
    if not text_file.is_file():
        raise InputError(f"{text_file}: no such file; run the fetch stage first (dvc repro fetch)")
    text = text_file.read_bytes()
    # Behind the checks above, because these imports cost seconds.
    import hashlib

    import numpy as np

    from prunelab.models import checkpoint, loading
    from prunelab.models.tensors import identity
    from prunelab.quality import probes, quality, reference, texts, windows

    wanted = settings.quality
    model = quality.ready(checkpoint.load(dense))
    quality.check_context(model, wanted.context)
    texts.check(model, wanted)
    loading.require_causal(model, dense)
    tokenizer = loading.tokenizer_of(dense, dense)
    tokenised = windows.tokenise(tokenizer, text.decode("utf-8"))
    cut = windows.cut(*tokenised, wanted.context, wanted.max_windows, first=wanted.kl_windows)
    known = reference.asked(wanted, probes_folder)
    asked = probes.prepare(tokenizer, text, tokenised, cut, wanted, probes_folder)

    name = "dense"
    scores = quality.score(model, cut.tokens, name, batch_tokens=wanted.batch_tokens, leave=wanted.kl_windows)
    answers = probes.ask(model, dense, name, asked, wanted, probes_folder)
    facts = {
        "dense_sha256": identity(dense),
        "libraries": reference.libraries(),
        "split": "test",
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "context": wanted.context,
        "dtype": quality.precision(model),
    }
    extra = asked | probes.kept(answers)
    left = reference.Reference(facts, cut, scores.loss, scores.nll, scores.choice, scores.states, extra, known)
    out.mkdir(parents=True, exist_ok=True)
    reference.save(out / "reference.safetensors", left)
    # By definition, and not measured: a model does not differ from itself.
    scores = scores._replace(kl=np.zeros(1), agreement=np.ones(1))
    figures = reference.figures(scores, left, wanted) | probes.figures(answers, left.extra, wanted)
    files.write_json(out / "quality.json", {"variant": name, **figures})
    print(f"{name}: loss {figures['loss']:.4f} nats a token, {figures['bits_per_byte']:.4f} bits a byte", flush=True)


def judge(settings, name: str, folder: Path, reference_folder: Path, probes_folder: Path, out: Path) -> None:
    """Score the variant `name` in `folder` on the reference's windows: quality.json, windows.safetensors into `out`."""
    from safetensors.numpy import save_file

    from prunelab.quality import decoded, probes, quality, reference
    from prunelab.quantised import opening

    wanted = settings.quality
    dense = reference.load(reference_folder / "reference.safetensors")
    reference.check(dense, wanted, probes_folder)
    reference.check_model(dense, folder, name)
    model = quality.ready(opening.load(folder))
    scores = quality.score(
        model,
        dense.windows.tokens,
        name,
        batch_tokens=wanted.batch_tokens,
        dense=dense.states if len(dense.states.hidden) else None,
        dense_choice=dense.choice,
    )
    answers = probes.ask(model, folder, name, dense.extra, wanted, probes_folder)
    figures = reference.figures(scores, dense, wanted) | probes.figures(answers, dense.extra, wanted)
    figures |= {"dtype": quality.precision(model), **decoded.figures(model, dense.windows.tokens, name)}
    out.mkdir(parents=True, exist_ok=True)
    with files.whole_file(out / "windows.safetensors") as partial:
        by_text = {f"loss_{text}": found.loss for text, found in answers.texts.items()}
        save_file({"loss": scores.loss, "nll": scores.nll, **by_text}, partial)
    files.write_json(out / "quality.json", {"variant": name, **figures})
    print(
        f"{name}: loss {figures['loss']:.4f} nats a token, to dense {figures['loss_diff']:+.4f} "
        f"({_signed(figures['loss_diff_lo'])} … {_signed(figures['loss_diff_hi'])})",
        flush=True,
    )


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.4f}"
