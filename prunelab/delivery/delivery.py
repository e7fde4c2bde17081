"""The model to deploy, as the recommendation names it, written for people who don't have this package.

`models/best/` is a plain Hugging Face folder with `model.onnx` and a card (README.md) that says what the model is, what
was measured and where, and how to make it again. Its generation settings end at the model's context, and what a fetched
model's licence asks to be passed on is passed on. `delivery.json` names the variant and why it was chosen.
"""

import json
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from prunelab.disk.files import read_json, sha256_file, whole_directory, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, composites, models, packed
from prunelab.models.tensors import WEIGHTS
from prunelab.quantised import files as quantised
from prunelab.report import results

FACTS = "delivery.json"
NO_ONNX = "the exporter knows no operator for weights in int8 or int4 as they are held here"
NO_PICTURES = "the exporter takes models that read text alone"
LEGAL = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")  # files that a licence may ask to be passed on
MEASURED = (  # behind the headline figure: column of the results, what the card calls it, format
    ("loss", "loss, nats a token", ".4f"),
    ("perplexity", "perplexity", ".3f"),
    ("bits_per_byte", "bits a byte", ".4f"),
    ("kl_to_dense", "KL to dense, nats a token", ".4f"),
    ("top1_agreement", "top-1 agreement with dense", ".4f"),
    ("parameters", "parameters", ",.0f"),
    ("nonzero_parameters", "non-zero parameters", ",.0f"),
    ("packed_bytes", "stored bytes (packed)", ",.0f"),
    ("macs_per_token", "multiply-accumulates a token", ",.0f"),
    ("prefill_ms", "prefill, ms", ".3f"),
    ("decode_ms_per_token", "decode, ms a token", ".3f"),
    ("peak_memory_bytes", "peak memory, bytes", ",.0f"),
    ("decode_j_per_token", "decode, J a token", ".4f"),
    ("gco2_per_million_tokens", "g CO2e a million tokens", ".3f"),
    ("litres_per_million_tokens", "litres of water a million tokens", ".4f"),
    ("pooled_accuracy", "questions answered rightly (share)", ".3f"),
    ("j_per_correct", "J a correct answer beyond guessing", ".3g"),
    ("gco2_per_correct", "g CO2e a correct answer beyond guessing", ".3g"),
    ("litres_per_correct", "litres of water a correct answer beyond guessing", ".3g"),
)


class Choice(NamedTuple):
    """What is delivered, as deploy.recommendation says it."""

    variant: str
    why: str


def deliver(study: results.Study, choice: Choice, out, onnx: bool) -> dict:
    """Write the chosen model into folder `out`; returns what delivery.json says.

    Raises InputError when its folder is missing, or the ONNX file would compute something else.
    """
    folder = study.models / _first_seed(study, choice.variant)["path"]
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no model there, but {choice.variant} was chosen ({choice.why}); dvc pull {folder}")
    with whole_directory(out) as partial:
        if whole := quantised.is_quantised(folder):
            _copy(folder, partial)
        else:
            checkpoint.export(folder, partial / "plain")  # it replaces the folder it writes into, so one of its own
            for path in (partial / "plain").iterdir():
                path.rename(partial / path.name)
            (partial / "plain").rmdir()
        for path in (path for pattern in LEGAL for path in (study.models / study.dense["path"]).glob(pattern)):
            shutil.copyfile(path, partial / path.name)
        context = _bound_lengths(partial)
        left_out = NO_ONNX if whole else NO_PICTURES if _sees_pictures(partial) else None
        apart = _write_onnx(partial) if onnx and left_out is None else None
        facts = {
            "variant": choice.variant,
            "why": choice.why,
            "model_sha256": sha256_file(partial / "model.safetensors"),
            "context_tokens": context,
            "onnx_logits_from_torch": apart,
            "onnx_left_out": left_out if onnx else None,
        }
        write_json(partial / FACTS, facts)
        (partial / "README.md").write_text(card(study, choice, facts), encoding="utf-8")
    return facts


def _copy(folder: Path, out: Path) -> None:
    """Copy a quantised model as it is: there is no plain form of it."""
    packed.copy_companions(folder, out)
    for name in (quantised.MARK, WEIGHTS):
        shutil.copyfile(folder / name, out / name)


def _first_seed(study: results.Study, identifier: str) -> dict:
    """The row of a variant of the first seed, which is the one that is delivered."""
    return next(row for row in study.rows if row["variant"] == identifier)


def _bound_lengths(folder: Path) -> int | None:
    """Make generation and tokenizer in `folder` end at the model's context; returns its tokens, None: it has no end.

    Behind it a model with learned positions fails, and any other guesses; the library's pipeline asks for 256 tokens
    where the folder says nothing. What its makers set stays where it is shorter.
    """
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder)
    context = models.context_length(config)
    if context is None:
        return None
    path = folder / "generation_config.json"
    wanted = read_json(path) if path.exists() else GenerationConfig.from_model_config(config).to_diff_dict()
    if (wanted.get("max_new_tokens") or context) >= context:
        wanted.pop("max_new_tokens", None)  # it comes before max_length
        wanted["max_length"] = min(wanted.get("max_length") or context, context)
    wanted.pop("_from_model_config", None)  # it is no longer what follows from config.json alone
    write_json(path, wanted)
    path = folder / "tokenizer_config.json"
    if path.exists():
        known = read_json(path)
        write_json(path, known | {"model_max_length": min(known.get("model_max_length") or context, context)})
    return context


def _write_onnx(folder: Path) -> float:
    """Write model.onnx beside a plain model; returns how far its logits are from torch's, relatively."""
    from prunelab.efficiency import runtimes
    from prunelab.models import onnx

    if reason := runtimes.available()["onnx"]:
        raise InputError(f"export.onnx: {reason}, or set export.onnx: false")
    import torch

    return onnx.export(checkpoint.load(folder, torch.float32), folder / "model.onnx")


def card(study: results.Study, choice: Choice, facts: dict) -> str:
    """The model card: Markdown with the front matter that the hub reads."""
    row, dense = _first_seed(study, choice.variant), study.dense
    made = study.files[row["path"]].get("sparsity")
    # Only figures that somebody measured: a row of unknowns is no information.
    headline = study.headline
    measured = {headline.column: (f"{headline.name}, {headline.unit}", headline.form)}
    measured |= {key: (title, form) for key, title, form in MEASURED if key not in measured}
    lines = [
        f"| {title} | {_cell(dense[key], form)} | {_cell(row[key], form)} |"
        for key, (title, form) in measured.items()
        if row.get(key) is not None
    ]
    known, pictures = _fetched(study), _sees_pictures(study.models / row["path"])
    model, reader = ("ImageTextToText", "processor") if pictures else ("CausalLM", "tokenizer")
    parts = [
        _front_matter(known, "image-text-to-text" if pictures else "text-generation"),
        f"# {choice.variant} of study {study.settings.study}",
        _what(row, made) + f" Chosen as {choice.why}." if choice.variant != "dense" else f"Not pruned: {choice.why}.",
        f"```python\n{_quantiser(study, row)}from transformers import AutoModelFor{model}, Auto{reader.title()}\n\n"
        f'model = AutoModelFor{model}.from_pretrained("this folder")\n'
        f'{reader} = Auto{reader.title()}.from_pretrained("this folder")\n```',
        *_context(facts.get("context_tokens")),
        "## Measured",
        "\n".join(["| | dense | this model |", "|---|---:|---:|", *lines]),
        *_notes(study, row),
        "## Recipe",
        "\n".join(f"- {line}" for line in _recipe(study, made)),
        "## Files",
        f"- `model.safetensors`, sha256 `{facts['model_sha256']}`",
    ]
    if facts["onnx_logits_from_torch"] is not None:
        parts[-1] += (
            f"\n- `model.onnx`: takes and returns its cache, its inputs and outputs are named as Optimum's; its logits "
            f"differ from torch's by {facts['onnx_logits_from_torch']:.1e} of the largest"
        )
    elif facts.get("onnx_left_out"):
        parts[-1] += f"\n- no `model.onnx`: {facts['onnx_left_out']}"
    return "\n\n".join(parts) + "\n"


def _quantiser(study: results.Study, row: dict) -> str:
    """The line without which transformers doesn't know what a quantised model's config names."""
    quantised = "quantised" in study.files[row["path"]]
    return "import prunelab.hf  # knows how its weights are stored\n" if quantised else ""


def _sees_pictures(folder: Path) -> bool:
    config = folder / "config.json"
    return config.exists() and composites.is_composite(read_json(config))


def _front_matter(known: dict | None, pipeline: str = "text-generation") -> str:
    """What the hub reads; the licence of a fetched model is that of what was made of it."""
    lines = ["library_name: transformers", f"pipeline_tag: {pipeline}", "tags: [pruned, prunelab]"]
    source = known["source"] if known else {}
    if licence := source.get("licence"):
        named = re.fullmatch(r"[\w.+-]+", licence)  # the hub's names are those of SPDX in small letters
        lines.append(f"license: {licence.lower()}" if named else f"license: other\nlicense_name: {json.dumps(licence)}")
    if source.get("kind") == "hub":
        lines.append(f"base_model: {source['name']}")
    return "\n".join(["---", *lines, "---"])


def _context(tokens: int | None) -> list[str]:
    if tokens is None:
        return []
    return [
        f"Context: {tokens} tokens, prompt and answer together. Generation ends there by itself. A `max_new_tokens` of "
        "your own comes before that: behind the context the model fails (`IndexError`) or guesses. The pipeline's "
        '`handle_long_generation="hole"` makes room by dropping the beginning of the prompt.'
    ]


def _cell(value, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _what(row: dict, made: dict | None) -> str:
    if made is None:
        return "A dense model."
    share = f"{100 * row['sparsity_pruned']:.2f} % of the prunable weights"
    if made.get("structure"):
        return f"{share} were removed for good ({made['structure']['kind']}): an ordinary, smaller model."
    return (
        f"{share} are zero. The shapes are those of the dense model: no dense kernel skips a zero, so this one is "
        "not faster, and the plain file here is as large as the dense one; it is small when packed."
    )


def _notes(study: results.Study, row: dict) -> list[str]:
    """What the table's figures are, and what they are not."""
    quality, headline = study.files[row["path"]]["quality"], study.headline
    if study.settings.fetch.text is None:
        counted = f"{quality['rows']} rows of {quality['items']} {headline.items}"
        notes = [f"Quality on the {quality['split']} rows (sha256 `{quality['text_sha256']}`): {counted}."]
    else:
        notes = [
            f"Quality on the {quality['split']} text (sha256 `{quality['text_sha256']}`): {quality['windows']} windows "
            f"of {quality['context']} tokens."
        ]
    ends = [row.get(f"{headline.diff}{end}") for end in ("", "_lo", "_hi")]
    if row["path"] != row["dense"] and None not in ends:
        apart, lo, hi = (format(end, f"+{headline.form}") for end in ends)
        notes.append(f"{headline.title} above dense: {apart} {headline.unit}, 95 % interval {lo} … {hi}.")
    ends = [row.get(f"decode_ratio{end}") for end in ("", "_lo", "_hi")]
    if row["path"] != row["dense"] and None not in ends:
        notes.append(
            "Decode time over dense: {:.3f}, 95 % interval {:.3f} … {:.3f}: ".format(*ends)
            + f"{row['decode_verdict']}."
        )
    if study.device:
        notes.append(f"Times on {study.device.get('cpu')} ({study.device.get('cores')} cores), {row.get('runtime')}.")
    if row.get("energy_estimated"):
        notes.append("Energy is estimated from time and modelled power; it ranks nothing apart from time.")
    return notes


def _recipe(study: results.Study, made: dict | None) -> list[str]:
    settings, known = study.settings, _fetched(study)
    config = study.models / study.dense["path"] / "config.json"
    architecture = read_json(config)["model_type"] if config.exists() else settings.train.architecture
    epochs, data = settings.train.epochs, settings.learns_from
    if known:
        source = known["source"]
        revision = f", revision {source['revision']}" if source.get("revision") else ""
        tuned = f", fine-tuned for {epochs} epochs on {data}" if epochs else ""
        lines = [
            f"dense model: {known['model']}, fetched: {source['name']}{revision}; architecture {architecture}{tuned}",
            f"weights: licence {source.get('licence') or 'not stated'}, "
            + (f"sha256 `{source['sha256']}`" if source.get("sha256") else "sha256 not known"),
        ]
    else:
        lines = [f"dense model: trained on {data}; architecture {architecture}, {epochs} epochs"]
    if made:
        lines.append(
            f"method {made['method']} at rate {made['rate']}: ranked by {made['score']}, checkpoint "
            f"{made['checkpoint']}, seed {made['seed']}"
        )
        calibration = made.get("calibration")
        lines.append(
            f"calibration: {calibration['samples']} samples of {calibration['length_tokens']} tokens, "
            f"hash `{calibration['hash']}`"
            if calibration
            else "calibration: none"
        )
        if structure := made.get("structure"):
            changed = ", ".join(f"{key} {value}" for key, value in structure["config_changes"].items())
            lines.append(
                f"structure: {changed}; logits within {structure['logits_from_masked']:.1e} of the masked model"
            )
        if recovery := made.get("recovery"):
            lines.append(
                f"recovery: {recovery['tokens']:,} tokens from {recovery['source']}, {recovery['parameters']} "
                f"parameters, learning rate {recovery['learning_rate']:g}; validation loss "
                f"{recovery['validation_loss_before']:.4f} → {recovery['validation_loss_after']:.4f}"
            )
    lines.append(f"made with {', '.join(_versions())}")
    return lines


def _fetched(study: results.Study) -> dict | None:
    """What fetch noted of the model that the study started from; None where it was trained here from the start."""
    if study.settings.train.start != "fetched":
        return None
    manifest, source = study.models / study.dense["path"] / "manifest.json", study.settings.fetch.model
    return read_json(manifest) if manifest.exists() else {"model": source.name, "source": source.model_dump()}


def _versions() -> list[str]:
    found = [f"python {sys.version.split()[0]}"]
    for package in ("prunelab", "torch", "transformers"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # run from a checkout that was not installed
            continue
    return found
