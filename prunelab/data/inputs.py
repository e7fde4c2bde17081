"""What a study reads from this disk under a name of the user's: texts, models, questions; each known by its content.

DVC sees only what stages write. A file that a setting names may change while the setting stays, so a stage that always
runs (`stages.inputs`) writes the hashes down, and what reads those files depends on them. What comes by wheel or URL is
pinned by a hash in params.yaml; what comes from the hub by its commit, where `revision` says one.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from prunelab.data import archives, documents, questions, sources
from prunelab.disk.files import sha256_file, write_json
from prunelab.errors import InputError

MEMORY = Path(".prunelab/hashes.json")  # of files that did not change since: a model of 14 GB takes half a minute


def of_sources(wanted: dict) -> dict[str, str | None]:
    """The hash of what is taken from this disk for each of the sources `wanted` (Settings.sources); None: nothing.

    Raises InputError where one names something that is not there.
    """
    patterns = {
        "text": documents.DEFAULT_FILES,
        "calibration": documents.DEFAULT_FILES,
        "model": (*sources.MODEL_FILES, *sources.PICKLED_FILES),
    }
    with _remembered() as sha256_of:
        known = {part: _of_source(source, patterns.get(part), sha256_of) for part, source in wanted.items()}
    return dict.fromkeys(patterns) | known


def of_texts(wanted: dict) -> dict[str, str]:
    """The hash of every one of the further texts `wanted` (Settings.further_texts) that is taken from this disk.

    Raises InputError where one names something that is not there.
    """
    with _remembered() as sha256_of:
        known = {name: _of_source(source, documents.DEFAULT_FILES, sha256_of) for name, source in wanted.items()}
    return {name: sha256 for name, sha256 in known.items() if sha256}


def of_questions(names: list[str]) -> dict[str, str]:
    """The sha256 of every file of questions among the tasks `names`.

    Raises InputError for one that is not there, or holds what is no question: now, not when a model was trained.
    """
    for name, path in questions.local(names).items():
        sources.local(name)
        questions.read_questions(path)
    return questions.hashes(names)


def of_devices(devices: dict[str, str]) -> dict[str, str]:
    """The hash of what each folder of `deploy.devices` was measured to, by the machine's name.

    Raises InputError for one that is not there, or holds no efficiency.json of a variant.
    """
    with _remembered() as sha256_of:
        found = {}
        for device, name in devices.items():
            place = sources.local(name)
            if not place.is_dir():
                raise InputError(f"deploy.devices.{device}: {name}: expected a results folder, found a file")
            chosen = archives.choose(place, ("*/*/efficiency.json",), f"deploy.devices.{device}: {name}")
            found[device] = archives.hash_listing(place, chosen, sha256_of)
        return found


def _of_source(source, default: tuple[str, ...] | None, sha256_of: Callable) -> str | None:
    if source is None or source.kind != "path":
        return None
    place = sources.local(source.name)
    if place.is_file():
        return sha256_of(place)
    # Without a default the source is a table that names other files: whatever lies there counts.
    chosen = archives.choose(place, sources.patterns(source, default) if default else ("**/*",), source.name)
    return archives.hash_listing(place, chosen, sha256_of)


@contextlib.contextmanager
def _remembered():
    """Yield a function that gives a file's sha256, from memory as long as its size, time and inode stay."""
    try:
        known = json.loads(MEMORY.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it only saves time
        known = None
    before = known if isinstance(known, dict) else {}
    found = dict(before)

    def sha256_of(path: Path) -> str:
        now = path.stat()
        key, state = str(path.resolve()), [now.st_size, now.st_mtime_ns, now.st_ino]
        if not isinstance(entry := found.get(key), list) or entry[1:] != state:
            found[key] = [sha256_file(path), *state]
        return found[key][0]

    yield sha256_of
    if found != before:
        write_json(MEMORY, found)
