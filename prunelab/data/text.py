"""From a source to train, validation and test text, with a manifest that says what is in them.

Documents are joined by a blank line, as the field does before it tokenises (raw WikiText-2). Three ways to split:

- document: whole documents go to one part each, drawn with a seed, so that no passage leaks from one to another.
- position: the head of everything is train, then comes validation, the tail is test (nanoGPT's 90/10).
- file: the source is split already; a file's name says which part it is.
"""

import hashlib
import random
import re
import tempfile
from pathlib import Path

from prunelab.data import documents, drawn, sources
from prunelab.data.documents import Document
from prunelab.disk import files
from prunelab.errors import InputError

PARTS = ("train", "validation", "test")
FILE_WORDS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
FILE_WORDS |= {"dev": "validation", "test": "test"}
JOIN = "\n\n"
MAX_NAMES = 500  # a manifest lists plays, not the rows of a crawl


def prepare(source, split, out: Path) -> dict:
    """Fetch a text and split it: train.txt, validation.txt, test.txt and manifest.json in the new folder `out`.

    `source` and `split` are `fetch.text` and `fetch.split` of the settings. Without a test part (`test_percent: 0`, or
    no test file) test.txt is the validation text, and the manifest says so. Returns the manifest.
    """
    brought, facts = _fetch(source, out)
    parts = divide(brought, split, source.name)
    if split.train_characters is not None:
        parts["train"] = first(parts["train"], split.train_characters, source.name)
    known = {character for document in parts["train"] for character in document.text} | set(JOIN)
    written = {}
    for part in PARTS:
        same_as = None if part in parts else "validation"
        content = parts[same_as or part]
        unseen = {character for document in content for character in document.text} - known
        written[part] = _write(out / f"{part}.txt", content)
        # A tokenizer made from the train part alone has no token for these.
        written[part] |= {"characters_unseen_in_train": "".join(sorted(unseen)), "same_as": same_as}
    manifest = facts | {"split": split.model_dump(), "parts": written}
    files.write_json(out / "manifest.json", manifest)
    return manifest


def prepare_whole(source, out: Path) -> dict:
    """Fetch a text that isn't split (calibration, further texts): text.txt and manifest.json in `out`.

    Returns the manifest.
    """
    brought, facts = _fetch(source, out)
    manifest = facts | {"text": _write(out / "text.txt", brought)}
    files.write_json(out / "manifest.json", manifest)
    return manifest


def divide(whole: list[Document], split, name: str) -> dict[str, list[Document]]:
    """The documents of each part; none is empty. `test` is absent when there is nothing apart for it."""
    if split.by == "file":
        parts = by_file(whole)
    elif split.by == "document":
        parts = by_document(whole, split.validation_percent, split.test_percent, split.seed)
    else:
        parts = by_position(whole, split.validation_percent, split.test_percent)
    expected = PARTS[: 2 if "test" not in parts else 3]
    empty = [part for part in expected if not any(document.text.strip() for document in parts.get(part, []))]
    if empty:
        once = len({document.text for document in whole})
        alike = f", {once} of them different," if split.by == "document" and once < len(whole) else ""
        raise InputError(
            f"{name}: expected text in {', '.join(expected)}, found none for {', '.join(empty)} when {len(whole)} "
            f"documents ({sum(len(one.text) for one in whole)} characters){alike} are split by {split.by}; "
            "give it more text or another split"
        )
    return parts


def first(whole: list[Document], characters: int, name: str) -> list[Document]:
    """The documents that make up the first `characters` characters of all joined, the last of them cut off there.

    Raises InputError where there are not so many.
    """
    found = len(JOIN.join(document.text for document in whole))
    if found < characters:
        raise InputError(
            f"fetch.split.train_characters: {characters}, but the training part of {name} has {found}; lower it, or "
            "set null"
        )
    kept, room = [], characters
    for document in whole:
        if room <= 0:
            break
        kept.append(document._replace(text=document.text[:room]))
        room -= len(document.text) + len(JOIN)
    return kept


def by_document(whole: list[Document], validation_percent: int, test_percent: int, seed: int):
    """Whole documents, drawn in seeded order, until a part is as near to its percent of the characters as it gets.

    A part that is asked for gets at least one document. Of documents with the same text only the first counts: its copy
    in another part would be a leak.
    """
    unique = list({document.text: document for document in reversed(whole)}.values())[::-1]
    order = sorted(range(len(unique)), key=lambda i: unique[i].name)
    random.Random(seed).shuffle(order)
    total = sum(len(document.text) for document in unique)
    drawn = {}
    for part, percent in (("validation", validation_percent), ("test", test_percent)):
        target, size, drawn[part] = total * percent / 100, 0, []
        while percent and order and (size == 0 or size + len(unique[order[-1]].text) / 2 < target):
            size += len(unique[order[-1]].text)
            drawn[part].append(order.pop())
    drawn["train"] = order
    return {part: [unique[i] for i in sorted(drawn[part])] for part in PARTS if part != "test" or test_percent}


def by_position(whole: list[Document], validation_percent: int, test_percent: int):
    """Head, middle and tail of all documents joined, cut at whole percents of the characters (rounded down)."""
    text = JOIN.join(document.text for document in whole)
    cuts = [
        0,
        *(len(text) * p // 100 for p in (100 - validation_percent - test_percent, 100 - test_percent)),
        len(text),
    ]
    ranges = zip(PARTS, cuts[:-1], cuts[1:], strict=True)
    parts = {part: [Document(f"characters {start} to {end}", text[start:end])] for part, start, end in ranges}
    return {part: parts[part] for part in PARTS if part != "test" or test_percent}


def by_file(whole: list[Document]):
    """Documents by the last of the words train, validation (valid, val, dev), test in their file's name."""
    parts = {}
    for document in whole:
        words = re.split(r"[^a-z]+", document.name.lower())
        part = next((FILE_WORDS[word] for word in reversed(words) if word in FILE_WORDS), None)
        if part is None:
            raise InputError(f"{document.name}: expected train, validation or test in the file's name (split by file)")
        parts.setdefault(part, []).append(document)
    return parts


def _fetch(source, out: Path) -> tuple[list[Document], dict]:
    """The documents of a text source and what the manifest says of them."""
    out.mkdir(parents=True, exist_ok=True)
    if source.kind == "drawn":
        whole, facts = drawn.documents(source)
    else:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=out) as scratch:
            brought = sources.bring(source, Path(scratch), documents.DEFAULT_FILES, repo_type="dataset")
            whole = documents.read(brought, source.strip, source.column, source.max_documents)
        facts = brought.facts | {"strip": source.strip, "max_documents": source.max_documents}
    alphabet = {character for document in whole for character in document.text}
    size = sum(len(document.text) for document in whole)
    return whole, {"source": facts, "documents": len(whole), "characters": size, "alphabet_size": len(alphabet)}


def _write(path: Path, content: list[Document]) -> dict:
    """Write documents as one UTF-8 file; its figures for the manifest."""
    text = JOIN.join(document.text for document in content)
    data = text.encode()
    path.write_bytes(data)
    names = [document.name for document in content] if len(content) <= MAX_NAMES else None
    figures = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "characters": len(text)}
    return figures | {"documents": len(content), "names": names}
