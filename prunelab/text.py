"""From fetched files to train, validation and test text, with a manifest that says what is in them.

A document is a text file, or a row of a table (JSON lines, Parquet). Documents are joined by a blank line, as the field
does before it tokenises (raw WikiText-2). Three ways to split:

- document: whole documents go to one part each, drawn with a seed, so that no passage leaks from one to another.
- position: the head of everything is train, then validation, the tail is test (nanoGPT's 90/10).
- file: the source has its own split; a file's name says which part it is.
"""

import gzip
import hashlib
import json
import random
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prunelab import files, markdown, sources
from prunelab.errors import InputError

PARTS = ("train", "validation", "test")
PART_WORDS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
PART_WORDS |= {"dev": "validation", "test": "test"}
TABLES = (".jsonl", ".json", ".parquet")
DEFAULT_FILES = tuple(f"**/*{end}" for kind in (".txt", ".md", ".jsonl") for end in (kind, f"{kind}.gz"))
DEFAULT_FILES += ("**/*.parquet",)
MAX_NAMES = 500  # a manifest lists plays, not the rows of a crawl


class Document(NamedTuple):
    name: str  # the file inside its source; for a row of a table: file#number
    text: str


def prepare(source, split, out: Path) -> dict:
    """Fetch a text, split it, and write train.txt, validation.txt, test.txt and manifest.json into `out`.

    `source` and `split` are `fetch.text` and `fetch.split` of the settings. With `test_percent: 0` (or, by file, no
    test file) the test text is the validation text, and the manifest says so. Returns the manifest.
    """
    brought, documents, facts = _documents(source, out)
    parts = divide(documents, split)
    if split.by == "position":
        parts = {part: text for part, text in parts.items() if text is not None}
        names = {part: None for part in parts}
    else:
        names = {part: [document.name for document in chosen] for part, chosen in parts.items()}
        parts = {part: "\n\n".join(document.text for document in chosen) for part, chosen in parts.items() if chosen}
    out.mkdir(parents=True, exist_ok=True)
    entries, known = {}, set(parts["train"]) if "train" in parts else set()
    for part in PARTS:
        same_as = None if part in parts else "validation"
        text = parts[part if same_as is None else same_as]
        if not text.strip():
            raise InputError(f"{source.name}: split by {split.by} leaves the {part} text empty; expected text in all parts")
        entries[part] = _write(out / f"{part}.txt", text) | {
            "same_as": same_as,
            "unseen_in_train": "".join(sorted(set(text) - known)),
            **_name(names.get(part if same_as is None else same_as)),
        }
    how = {"by": split.by, "seed": split.seed if split.by == "document" else None}
    if split.by != "file":
        how |= {"validation_percent": split.validation_percent, "test_percent": split.test_percent}
    manifest = facts | {"split": how, "parts": entries}
    files.write_json(out / "manifest.json", manifest)
    return manifest


def prepare_whole(source, out: Path) -> dict:
    """Fetch a text that isn't split (calibration): text.txt and manifest.json in `out`. Returns the manifest."""
    _, documents, facts = _documents(source, out)
    out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(document.text for document in documents)
    manifest = facts | {"text": _write(out / "text.txt", text) | _name([document.name for document in documents])}
    files.write_json(out / "manifest.json", manifest)
    return manifest
