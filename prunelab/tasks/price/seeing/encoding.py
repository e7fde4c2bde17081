"""Rows of picture, prompt and answer as tensors: for training, where the loss is of the answer alone, and for asking.

An encoded row is a dict of tensors without a batch dimension: `input_ids`, `attention_mask`, `labels` (-100 but for the
answer's tokens), each (length,), and what the processor made of the picture (`pixel_values`, …). Answers end with the
tokenizer's end token, by which a model says that its answer is over.

Some models attend in both directions over picture and prompt, and are told by `token_type_ids` where that ends (0 and 1
in PaliGemma), or where the picture lies (1 in Gemma 3); an answer's tokens are marked as text to be written, so that
none sees a later one.
"""

from collections import defaultdict
from pathlib import Path

import torch

from prunelab.errors import InputError, in_one_line
from prunelab.models import loading, models
from prunelab.tasks.price.bringing import numbers
from prunelab.tasks.price.templates import PLACE

IGNORED = -100  # a label that no loss counts
# What an answer's tokens are in `token_type_ids`, by the model's type: those behind the prompt of a prefix model.
ANSWER_TYPE = {"paligemma": 1}


class Encoder:
    """Encodes rows for the model of `config` by its processor (processing.py).

    pictures: the folder that the rows' pictures are relative to. context: the most tokens of a row, None: as many as
    the model takes.
    """

    def __init__(self, processor, config, pictures: Path, context: int | None = None):
        self.processor, self.pictures = processor, Path(pictures)
        limits = [length for length in (context, models.context_length(config)) if length]
        self.limit = min(limits, default=None)
        tokenizer = processor.tokenizer
        self.end = tokenizer.eos_token_id
        self.picture = getattr(config, "image_token_id", None)
        padding = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.fill = {"input_ids": padding, "labels": IGNORED, "token_type_ids": ANSWER_TYPE.get(config.model_type, 0)}

    def prompt(self, row: dict, picture=None) -> dict[str, torch.Tensor]:
        """The row's picture and prompt, nothing of its answer; `picture`: another one (Pillow's) than its own.

        Raises InputError that names the row: no such picture, no place for it, more tokens than the context has.
        """
        return self._fitting(row, self._prompt(row, picture))

    def row(self, row: dict, picture=None) -> dict[str, torch.Tensor]:
        """The row with its answer, and `labels`. Raises InputError as `prompt`."""
        return self.answered(row, self._prompt(row, picture))

    def answered(self, row: dict, prompt: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The row with its answer behind its encoded `prompt`, and `labels`. Raises InputError as `prompt`."""
        encoded = dict(prompt)
        answer = self.answer(row["answer"])
        asked = len(encoded["input_ids"])
        behind = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in encoded:
                behind[name] = torch.full_like(answer, self.fill.get(name, 0))
        for name, values in behind.items():
            encoded[name] = torch.cat([encoded[name], values.to(encoded[name].dtype)])
        encoded["labels"] = torch.cat([torch.full((asked,), IGNORED), answer])
        return self._fitting(row, encoded)

    def answer(self, text: str) -> torch.Tensor:
        """(n,) the tokens of an answer and the one that ends it."""
        ids = self.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor([*ids, self.end])

    def written(self, ids) -> str:
        """The text of an answer's tokens, up to the one that ends it; where none does, numbers.CUT stands behind it."""
        ids = list(ids)
        ended = self.end in ids
        text = self.processor.tokenizer.decode(ids[: ids.index(self.end)] if ended else ids, skip_special_tokens=True)
        return text if ended else f"{text}{numbers.CUT}"

    def places(self, ids: torch.Tensor) -> torch.Tensor:
        """Which of the tokens `ids` are places of a picture: bool, in their shape."""
        return (ids < 0) if self.picture is None else (ids == self.picture)  # negative: Phi-3-vision's own

    def pictures_tokens(self, encoded: dict) -> int:
        """How many of a row's tokens are places of its picture."""
        return int(self.places(encoded["input_ids"]).sum())

    def collate(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """A batch of encoded rows, padded on the right where their lengths differ; padding is masked and has no loss.

        Pictures of several sizes are padded with black, which their masks leave out, or lie one behind the other where
        the model takes patches by a grid (Qwen's).
        """
        batch = {}
        for name in rows[0]:
            parts = [row[name] for row in rows]
            if len({part.shape for part in parts}) == 1:
                batch[name] = torch.stack(parts)
            elif name == "pixel_values" and parts[0].dim() == 2:
                batch[name] = torch.cat(parts)
            else:
                batch[name] = _padded(parts, self.fill.get(name, 0))
        return batch

    def _prompt(self, row: dict, picture) -> dict[str, torch.Tensor]:
        if row["prompt"].count(PLACE) != 1:
            raise InputError(f"{self._told(row)}: expected one {PLACE} in its prompt, found {row['prompt']!r}")
        text = row["prompt"].replace(PLACE, self.processor.place)
        if row["prompt"].count(self.processor.place):
            raise InputError(
                f"{self._told(row)}: its prompt says {self.processor.place!r}, which the model's processor reads as a "
                "picture; write it otherwise"
            )
        try:
            found = self.processor(self.open(row) if picture is None else picture, text)
        except InputError:
            raise
        except Exception as error:  # as many kinds as processors
            raise InputError(f"{self._told(row)}: its processor cannot take it: {in_one_line(error)}") from error
        # (1, …) of one row, but for patches that are listed without rows (Qwen's pixel_values).
        encoded = {name: value[0] if len(value) == 1 else value for name, value in found.items()}
        if "attention_mask" not in encoded:
            encoded["attention_mask"] = torch.ones_like(encoded["input_ids"])
        return encoded

    def open(self, row: dict):
        """The row's picture, in RGB. Raises InputError where it cannot be read."""
        from PIL import Image

        path = self.pictures / row["picture"]
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{self._told(row)}: its picture cannot be read: {in_one_line(error)}") from error

    def _fitting(self, row: dict, encoded: dict) -> dict:
        found = len(encoded["input_ids"])
        if self.limit is not None and found > self.limit:
            raise InputError(
                f"{self._told(row)}: expected at most {self.limit} tokens (train.context, or what the model takes), "
                f"found {found}, {self.pictures_tokens(encoded)} of them its picture's; shorten the prompt or raise it"
            )
        return encoded

    @staticmethod
    def _told(row: dict) -> str:
        return row.get("where") or f"row {row['id']}"


def _padded(parts: list[torch.Tensor], fill: int) -> torch.Tensor:
    """The parts as one tensor, every dimension as large as the largest, filled behind."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    batch = torch.full((len(parts), *shape), fill, dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        batch[(number, *(slice(size) for size in part.shape))] = part
    return batch


@torch.inference_mode()
def answers(model, encoder: Encoder, prompts: list[dict], tokens: int, batch: int) -> list[str]:
    """What `model` answers to encoded prompts, greedily: the text of at most `tokens` tokens each, in their order.

    Only prompts of equal lengths share a batch (of at most `batch`), so nothing is padded: an answer is the same
    whatever else is asked, and models count their positions as in training.
    """
    groups = defaultdict(list)
    for number, prompt in enumerate(prompts):
        groups[tuple((name, value.shape) for name, value in prompt.items())].append(number)
    found = [""] * len(prompts)
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            inputs = encoder.collate([prompts[number] for number in part])
            for number, ids in zip(part, generate(model, encoder, inputs, tokens).tolist(), strict=True):
                found[number] = encoder.written(ids)
    return found


@torch.inference_mode()
def generate(model, encoder: Encoder, inputs: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
    """(rows, at most `tokens`) the ids that `model` writes greedily behind `inputs`, a batch of prompts."""
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with loading.quiet():
        ids = model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, num_beams=1, use_cache=True,
            eos_token_id=encoder.end, pad_token_id=encoder.fill["input_ids"],
            temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
        )  # fmt: skip
    return ids[:, inputs["input_ids"].shape[1] :]


@torch.inference_mode()
def require_answers_in_order(model, encoder: Encoder, encoded: dict, name) -> None:
    """Raises InputError where the loss of an answer's token sees the tokens behind it: such a loss means nothing.

    encoded: a row with its answer; `name`: of the model.
    """
    inputs = {key: value[None].to(model.device) for key, value in encoded.items() if key != "labels"}
    other = dict(inputs, input_ids=inputs["input_ids"].clone())
    other["input_ids"][0, -1] = other["input_ids"][0, -2]
    first = int((encoded["labels"] != IGNORED).nonzero()[0]) - 1  # whose logits predict the answer's first token
    one, two = (model(**given, use_cache=False).logits[0, first:-1].float() for given in (inputs, other))
    if one.isnan().any():
        raise InputError(f"{name}: expected a model that predicts numbers, found nan")
    tolerance = 1e-5 if model.dtype == torch.float32 else 1e-2
    if bool((one - two).abs().max() > tolerance * one.abs().max()):
        raise InputError(
            f"{name}: expected that a token of an answer sees none behind it, found that {type(model).__name__} reads "
            "answers in both directions; it is trained and judged otherwise than this task does"
        )
