"""What a study reads from this disk under a name of the user's: texts, models, questions; each known by its content.

DVC sees only what stages write. A file that a setting names may change while the setting stays, so a stage that always
runs (`stages.inputs`) writes the hashes down, and what reads those files depends on them. What comes by wheel or URL is
pinned by a hash in params.yaml; what comes from the hub by its commit, where `revision` says one.
"""

import json
from pathlib import Path

from prunelab import archives, documents, questions, sources
from prunelab.files import sha256_file, write_json

MEMORY = Path(".prunelab/hashes.json")  # of files that did not change since: a model of 14 GB takes half a minute


def of_sources(fetch) -> dict[str, str | None]:
    """The hash of what `fetch` (a section of the settings) takes from this disk for each of its parts; None: nothing.

    Raises InputError where it names something that is not there.
    """
    patterns = {
        "text": documents.DEFAULT_FILES,
        "calibration": documents.DEFAULT_FILES,
        "model": (*sources.MODEL_FILES, *sources.PICKLED_FILES),
    }
    return {part: _of_source(getattr(fetch, part), default) for part, default in patterns.items()}


def of_questions(names: list[str]) -> dict[str, str]:
    """The sha256 of every file of questions among the tasks `names`.

    Raises InputError for one that is not there, or holds what is no question: now, not when a model was trained.
    """
    places = {name: sources.local(name) for name in names if name.endswith(".jsonl")}
    for place in places.values():
        questions.read_questions(place)
    return {name: _sha256(place) for name, place in places.items()}


def _of_source(source, default: tuple[str, ...]) -> str | None:
    if source is None or source.kind != "path":
        return None
    place = sources.local(source.name)
    if place.is_file():
        return _sha256(place)
    chosen = archives.choose(place, sources.patterns(source, default), source.name)
    return archives.hash_listing(place, chosen, _sha256)


def _sha256(path: Path) -> str:
    """The hash of a file, remembered as long as its size and time stay."""
    now = path.stat()
    key, state = str(path.resolve()), [now.st_size, now.st_mtime_ns, now.st_ino]
    try:
        remembered = json.loads(MEMORY.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it only saves time
        remembered = {}
    if not (isinstance(remembered, dict) and isinstance(known := remembered.get(key), list) and known[1:] == state):
        known = [sha256_file(path), *state]
        write_json(MEMORY, (remembered if isinstance(remembered, dict) else {}) | {key: known})
    return known[0]
