"""A model's own processor: how a picture and a prompt with a place for it become tensors.

It is loaded by transformers' AutoProcessor, with the image processors that work on Pillow and numpy: torchvision cannot
be had beside the CPU build of torch that is pinned here. Some processors ask for torchvision (Qwen2.5-VL) or num2words
(SmolVLM) although that concerns only moving pictures; of those the image processor and the tokenizer are used directly.
"""

import inspect
import shutil
from pathlib import Path

import torch

from prunelab.disk.files import read_json
from prunelab.errors import InputError, in_one_line
from prunelab.models import loading, owncode, packed

# What a folder has beside its processor: the model's own files, and what a predicting one says of its prices.
OF_THE_MODEL = {"config.json", "generation_config.json", "price.json"}
# Which class lays out a still picture as the one does that refuses to be made here.
STILL = {"SmolVLMProcessor": "Idefics3Processor"}
ONLY_FOR_VIDEOS = ("torchvision", "num2words", "video")
NUMBERED = "<|image_1|>"  # where a processor of its own code (Phi-3-vision's) wants its first picture


class Processor:
    """A processor of the library for the model of `config`, and the folder it came from (None: it was made here)."""

    def __init__(self, inner, config, folder: Path | None = None):
        self.inner, self.config, self.folder = inner, config, folder

    @property
    def tokenizer(self):
        return self.inner.tokenizer

    @property
    def place(self) -> str:
        """What stands in a prompt where its picture is."""
        return getattr(self.inner, "image_token", None) or NUMBERED

    def __call__(self, picture, text: str) -> dict[str, torch.Tensor]:
        """The tensors of one picture (Pillow's) and one text that holds `place`, each (1, …) as the model takes it."""
        own = getattr(self.inner, "image_token", None) is None  # takes one text
        found = self.inner(images=[picture], text=text if own else [text], return_tensors="pt")
        return {name: value for name, value in found.items() if torch.is_tensor(value) and name != "labels"}

    def save_pretrained(self, out) -> None:
        """Write all files of the processor into the folder `out`; those of a fetched model as they came."""
        out = Path(out)
        if self.folder is None:
            self.inner.save_pretrained(out)
            self.inner.image_processor.save_pretrained(out)  # where tools look for it that don't know the new file
        else:
            for path in packed.companions(self.folder):
                if path.name not in OF_THE_MODEL:
                    shutil.copyfile(path, out / path.name)


def of_folder(folder, name=None) -> Processor:
    """The processor in `folder`. Raises InputError with the reason in one line; `name`: for it, else the folder."""
    from transformers import AutoProcessor

    folder, name = Path(folder), name or folder
    granted = owncode.granted(folder)
    with loading.quiet():
        try:
            inner = AutoProcessor.from_pretrained(folder, trust_remote_code=granted)
        except Exception as error:  # as many kinds as processors
            if not any(word in str(error).lower() for word in ONLY_FOR_VIDEOS):
                raise InputError(
                    f"{name}: expected a processor that transformers can load, found: {in_one_line(error)}"
                ) from error
            inner = _without_videos(folder, name, error)
    parts = ("tokenizer", "image_processor", *([] if granted else ["image_token"]))
    if any(getattr(inner, part, None) is None for part in parts):
        raise InputError(
            f"{name}: expected a processor of pictures and text, found {type(inner).__name__} (is there a "
            "preprocessor_config.json or processor_config.json beside the model?)"
        )
    if inner.tokenizer.eos_token_id is None:
        raise InputError(f"{name}: expected a tokenizer with a token that ends an answer (eos_token), found none")
    return Processor(inner, loading.config_of(folder), folder)


def _without_videos(folder: Path, name, reason: Exception):
    """The processor of `folder` for still pictures alone. Raises InputError where that cannot be made either."""
    from transformers import AutoImageProcessor
    from transformers.models.auto import processing_auto

    said = _said(folder)
    kind = said.get("processor_class") or processing_auto.PROCESSOR_MAPPING_NAMES.get(said.get("model_type"))
    needs = next(word for word in ONLY_FOR_VIDEOS if word in str(reason).lower())
    try:
        found = processing_auto.processor_class_from_name(STILL.get(kind, kind))
        parts = {
            "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"),
            "tokenizer": loading.tokenizer_of(folder, name),
        }
        takes = inspect.signature(found.__init__).parameters
        options = {key: said[key] for key in takes if key in said and not isinstance(said[key], dict)}
        if "video_processor" in takes:
            parts["video_processor"] = None
        return type(found.__name__, (_Still, found), {})(**parts, **options)
    except Exception as error:  # as many kinds as processors
        raise InputError(
            f"{name}: expected a processor of pictures, found that {kind} asks for {needs}, and that it cannot be used "
            f"without: {in_one_line(error)}"
        ) from error


class _Still:
    """Of a processor class: it need not have one for videos."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument is None and argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)


def _said(folder: Path) -> dict:
    """What the files of a processor say: its class, and what this takes beside its parts."""
    files = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
    said: dict = {}
    for path in (folder / file for file in files):
        if path.exists():
            keys = ("model_type", "processor_class") if path.name != "processor_config.json" else None
            said |= {key: value for key, value in read_json(path).items() if keys is None or key in keys}
    return said
