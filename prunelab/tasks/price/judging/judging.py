"""How good a model of prices is: its greedy answers as prices, the token loss of true answers, and two controls.

    row  → picture + prompt → answer, greedily → the number in it → errors (figures.py)
         → picture + prompt + true answer → its loss, nats a token
    controls: the rows with another item's picture, and without words (asking.py)

The dense model's stage leaves reference.safetensors: what variants are compared with, row by row. Rows and pictures
stay where fetch put them, because they may be such as must not be passed on; their hash says whether they are the same.
"""

import inspect
import io
import json
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from prunelab import stats
from prunelab.disk import files
from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, loading, workers
from prunelab.models.tensors import identity
from prunelab.quality import quality, reference
from prunelab.quantised import opening
from prunelab.tasks.price import about, baselines, predicting, templates
from prunelab.tasks.price.judging import asking, figures
from prunelab.tasks.price.judging.asking import HeldOut
from prunelab.tasks.price.money import amount, digits
from prunelab.tasks.price.seeing import encoding, processing

CONTROLS = ("shuffled_pictures", "blank_text")
ASKED = ("prompt", "answer", "currency", "decimals")  # settings of `price` that must be the same for all
THUMBNAIL = 160  # pixels of the longer side of an example in the report
ENCODING = threading.Lock()  # a tokenizer's settings are changed while it is called, which its library refuses to share


class Answers(NamedTuple):
    """What a model said of the held-out rows. Prices are float64, nan where an answer holds none."""

    loss: np.ndarray  # (rows,) nats a token of the true answer, float64
    tokens: int  # of all true answers
    texts: list[str]  # the answers
    prices: np.ndarray  # (rows,)
    controls: dict[str, np.ndarray]  # (rows,) prices, by CONTROLS; none where they were not asked


class Reference(NamedTuple):
    """What the dense model left."""

    facts: dict  # as in every quality.json of the study
    asked: dict
    loss: np.ndarray  # (items,)
    mae: np.ndarray  # (items,)


def judge_dense(settings, dense: Path, data: Path, out: Path) -> None:
    """quality.json and reference.safetensors of the dense model, on the rows of `data`, into `out`."""
    held = asking.held_out(data, settings.quality.max_windows)
    model = quality.ready(checkpoint.load(dense))
    answers = ask(model, dense, "dense", held, settings, dense=True)
    facts = {
        "dense_sha256": identity(dense),
        "libraries": reference.libraries(),
        "split": "test",
        "text_sha256": held.sha256,
        "data": Path(data).as_posix(),
        "dtype": quality.precision(model),
    }
    values = _values(answers, held)
    left = Reference(facts, asked(settings), values["loss"], values["mae"])
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(array) for name, array in (values | _by_row(answers, held)).items()}
    words = {"facts": facts, "asked": left.asked, "answers": _told(answers, held)}
    reference.write(out / "reference.safetensors", tensors | _thumbnails(held), words)
    wanted = settings.quality.bootstrap_draws
    told = summary(answers, held, left, wanted)
    told["baselines"] = {
        name: figures.baseline(predicted, left.mae, held.truth, wanted)
        for name, predicted in baselines.predictions(settings.price, held.folder, held.rows).items()
    }
    told["measured_on"] = _measured_on(held)
    files.write_json(out / "quality.json", {"variant": "dense", **told})
    print(_line("dense", told, settings), flush=True)


def judge_variant(settings, name: str, folder: Path, reference_folder: Path, out: Path) -> None:
    """quality.json and windows.safetensors of the variant `name` in `folder`, beside dense's, into `out`."""
    left = load(reference_folder / "reference.safetensors")
    for section, now in asked(settings).items():
        reference.check_same(section, left.asked.get(section, {}), now)
    reference.check_libraries(left.facts)
    reference.check_model(left, folder, name)
    held = asking.held_out(left.facts["data"], settings.quality.max_windows)
    if held.sha256 != left.facts["text_sha256"]:
        raise InputError(
            f"{held.folder}: expected the rows and pictures that dense was asked, found others; run the reference "
            "stage again (dvc repro reference)"
        )
    model = quality.ready(opening.load(folder))
    answers = ask(model, folder, name, held, settings)
    told = summary(answers, held, left, settings.quality.bootstrap_draws) | {"dtype": quality.precision(model)}
    out.mkdir(parents=True, exist_ok=True)
    tensors = {key: torch.from_numpy(array) for key, array in (_values(answers, held) | _by_row(answers, held)).items()}
    with files.whole_file(out / "windows.safetensors") as partial:
        save_file(tensors, partial, metadata={"prunelab": json.dumps({"answers": _told(answers, held)})})
    files.write_json(out / "quality.json", {"variant": name, **told})
    print(_line(name, told, settings), flush=True)


def asked(settings) -> dict:
    """The settings that dense and its variants must have in common, by section."""
    return {
        "price": settings.price.model_dump(mode="json", include=set(ASKED)),
        "quality": {"max_windows": settings.quality.max_windows},
    }


def load(path) -> Reference:
    """Read what `judge_dense` left. Raises InputError when it is missing or broken."""
    tensors, words = reference.read(path)
    try:
        return Reference(words["facts"], words["asked"], tensors["loss"].numpy(), tensors["mae"].numpy())
    except KeyError as error:
        raise InputError(f"{path}: not a reference of this task (no {error}); run the reference stage again") from None


def ask(model, folder: Path, name: str, held: HeldOut, settings, dense: bool = False) -> Answers:
    """What the `model` of `folder` answers to the held-out rows, and in both controls; `name`: for errors.

    dense: this is the dense model, of which it is looked at whether a token's loss sees later ones. Of others the
    controls cost half of the time, so `price.controls` may leave them out.
    """
    processor = processing.of_folder(folder)
    encoder = encoding.Encoder(processor, processor.config, held.folder)
    if dense:
        encoding.require_answers_in_order(model, encoder, encoder.row(held.rows[0]), name)
    per_batch = max(1, settings.quality.batch_tokens // len(encoder.row(held.rows[0])["input_ids"]))
    most = about.read(folder)["answer_tokens"] + predicting.ROOM
    nats, tokens, texts = answered(model, encoder, held.rows, most, per_batch)
    if not np.isfinite(nats).all():
        broken = int((~np.isfinite(nats)).sum())
        raise InputError(
            f"{name}: the loss is not finite in {broken} of {len(nats)} rows, first in row "
            f"{held.rows[int(np.flatnonzero(~np.isfinite(nats))[0])]['id']}; its weights overflow or hold values that "
            "are not numbers"
        )
    price = settings.price
    others = {}
    if dense or price.controls == "every":
        others = {
            "shuffled_pictures": asking.with_other_pictures(held.rows),
            "blank_text": asking.without_words(held.rows, price.prompt),
        }
    controls = {kind: prices_in(written(model, encoder, rows, most, per_batch), price) for kind, rows in others.items()}
    return Answers(nats / tokens, int(tokens.sum()), texts, prices_in(texts, price), controls)


def answered(model, encoder, rows: list[dict], most: int, per_batch: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(nats, tokens, texts) of `rows`, in their order, batches side by side.

    nats, tokens: (rows,) float64, the sum over the true answer's tokens, its end among them. texts: greedy answers of
    at most `most` tokens. A row is encoded once for both: of a small model encoding is a third of the time.
    """

    def both(part: list[dict]) -> list[tuple[float, int, str]]:
        with ENCODING:
            prompts = [encoder.prompt(row) for row in part]
            whole = [encoder.answered(row, prompt) for row, prompt in zip(part, prompts, strict=True)]
        scored = losses(model, encoder.collate(whole))
        return list(zip(*scored, encoding.answers(model, encoder, prompts, most, per_batch), strict=True))

    with loading.quiet():  # which each thread then finds as it leaves it
        nats, tokens, texts = zip(*_side_by_side(model, both, rows, per_batch), strict=True)
    return np.array(nats, np.float64), np.array(tokens, np.float64), list(texts)


def written(model, encoder, rows: list[dict], most: int, per_batch: int) -> list[str]:
    """Greedy answers of at most `most` tokens to the prompts of `rows`, in their order, batches side by side."""

    def answer(part: list[dict]) -> list[str]:
        with ENCODING:
            prompts = [encoder.prompt(row) for row in part]
        return encoding.answers(model, encoder, prompts, most, per_batch)

    with loading.quiet():
        return _side_by_side(model, answer, rows, per_batch)


@torch.inference_mode()
def losses(model, batch: dict[str, torch.Tensor]) -> tuple[list[float], list[int]]:
    """(nats, tokens) of each true answer of a collated batch: the sum over its tokens, its end among them."""
    labels = batch.pop("labels")
    inputs = {key: value.to(model.device) for key, value in batch.items()}
    # Logits from the token before the first answer on: of a whole prompt they would be the largest thing here.
    behind = labels.shape[1] - int((labels != encoding.IGNORED).any(0).nonzero()[0]) + 1
    kept = {"logits_to_keep": behind} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits = model(**inputs, use_cache=False, **kept).logits[:, -behind:-1].float().cpu()
    target = labels[:, 1 - behind :]
    known = target != encoding.IGNORED
    logp = torch.log_softmax(logits[known], dim=-1).gather(-1, target[known][:, None])[:, 0].double()
    nats = torch.zeros(len(labels), dtype=torch.float64).index_add_(0, known.nonzero()[:, 0], -logp)
    return nats.tolist(), known.sum(1).tolist()


def prices_in(texts: list[str], price) -> np.ndarray:
    """(rows,) the price in each answer, nan where there is none; price: that section of the settings."""
    found = [templates.price_in(text, price.answer, price.currency, price.decimals) for text in texts]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def summary(answers: Answers, held: HeldOut, left: Reference, draws: int) -> dict:
    """The figures of one model as they stand in quality.json."""
    own, truth = _values(answers, held), held.truth
    told = figures.summary(answers.prices, truth, draws)
    diff = stats.paired_bootstrap(own["loss"] - left.loss, draws)
    return {
        **left.facts,
        "tokens": answers.tokens,
        "loss": float(own["loss"].mean()),
        **{f"loss_diff{end}": quality.known(value) for end, value in zip(("", "_lo", "_hi"), diff, strict=True)},
        **told,
        **figures.against("mae", own["mae"], left.mae, draws),
        "controls": {
            kind: figures.control(prices, own["mae"], truth, draws) for kind, prices in answers.controls.items()
        },
    }


def _side_by_side(model, work, rows: list[dict], per_batch: int) -> list:
    """What `work` gives of each row, in order, from pieces of like lengths by several threads on a CPU.

    Rows of like lengths lie together, so that batches are full and little is padded. One thread where the model keeps a
    note of its own between calls, as Qwen's does of its positions.
    """
    stateful = any("rope_deltas" in vars(module) for module in model.modules())
    device = next(model.parameters()).device
    count = 1 if stateful else workers.number_of(device, len(rows))
    size = max(1, min(per_batch, -(-len(rows) // count)))
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]["prompt"]))
    pieces = [order[start : start + size] for start in range(0, len(rows), size)]
    found = [None] * len(rows)

    def run(_, numbers) -> None:
        for piece in (pieces[number] for number in numbers):
            for place, value in zip(piece, work([rows[place] for place in piece]), strict=True):
                found[place] = value

    workers.share(run, len(pieces), min(count, len(pieces)))
    return found


def _values(answers: Answers, held: HeldOut) -> dict[str, np.ndarray]:
    """(items,) values by the names of their figures: what differences are paired over."""
    return {
        "loss": held.truth.by_item(answers.loss),
        "mae": figures.item_errors(answers.prices, held.truth),
    }


def _by_row(answers: Answers, held: HeldOut) -> dict[str, np.ndarray]:
    """(rows,) arrays for the report: true and predicted prices, nan where an answer holds none."""
    return {
        "price": held.truth.price,
        "predicted": answers.prices,
        "row_loss": answers.loss,
        **{f"predicted_{kind}": prices for kind, prices in answers.controls.items()},
    }


def _told(answers: Answers, held: HeldOut) -> list[dict]:
    """Which rows they are and what was said of each."""
    return [
        {"id": row["id"], "item": row["item"], "answer": text}
        for row, text in zip(held.rows, answers.texts, strict=True)
    ]


def _measured_on(held: HeldOut) -> dict[str, str]:
    """What the report says of the data, by a word each."""
    manifest = read_json(held.folder / "manifest.json")
    source = manifest.get("source") or {}
    rest = "may be passed on" if manifest.get("pass_on") else "not passed on"
    return {
        "rows": f"{len(held.rows):,} held-out ones of {int(held.truth.items.max()) + 1:,} items",
        "data": " ".join(str(source[key]) for key in ("kind", "name", "revision") if source.get(key)),
        "licence": f"{manifest.get('licence') or 'none given'}; {rest}",
    }


def _thumbnails(held: HeldOut) -> dict[str, torch.Tensor]:
    """Small JPEG pictures of some rows for the report; none where the data must not be passed on."""
    if not read_json(held.folder / "manifest.json").get("pass_on"):
        return {}
    from PIL import Image

    found = {}
    for row in asking.examples(held.truth):
        with Image.open(held.folder / held.rows[row]["picture"]) as picture:
            small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=80)
        found[f"picture.{row}"] = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    return found


def _line(name: str, told: dict, settings) -> str:
    """The one line that a stage prints."""
    price = settings.price
    said = f"{name}: mean absolute error {amount(told['mae'], price.currency, digits(told['mae'], price.decimals))}"
    if name != "dense":
        lo, hi = (told[f"mae_increase_percent{end}"] for end in ("_lo", "_hi"))
        ends = "" if lo is None else f" ({lo:+.1f} … {hi:+.1f})"
        more = told["mae_increase_percent"]
        said += f", to dense {'unknown' if more is None else f'{more:+.1f} %'}{ends}"
    controls = told["controls"]
    times = [controls[kind]["times_own"] for kind in CONTROLS if kind in controls]
    if times and None not in times:
        said += f"; other pictures {times[0]:.2f} ×, no text {times[1]:.2f} ×"
    if told["not_a_number_share"]:
        said += f"; {100 * told['not_a_number_share']:.1f} % of the answers are no number"
    return f"{said}; loss {told['loss']:.4f} nats a token"
