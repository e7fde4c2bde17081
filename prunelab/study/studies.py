"""Studies as differences: studies/default.yaml is complete, every other file of studies/ holds only what differs.

`merge()` makes the complete, commented params.yaml of a study:

- A section is merged key by key. A list or a value replaces the default's.
- Where one of the two is a section and the other is not (`calibrate: null` in the default), the study's stands whole,
  so it must be complete.
- What belongs together is replaced together: a source that says its `kind` is another source (the hash of the default's
  would be wrong), and `train.config` beside another `train.architecture` is another architecture's.
- `study:` may be left out; it is the file's name then.
- `base: verdict` says that a study differs from that one, which is merged first, instead of from the default.

A changed line has the study's comment where that has one, else the default's. What the default does not have is refused
by `params`, as in any params.yaml. `override()` puts a dict over a whole study by the same rules, for a single run.
"""

import io
import itertools
import json
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from prunelab.errors import InputError, nearest
from prunelab.study import params

FOLDER = Path("studies")
DEFAULT = "default"
SHOWN = 40  # characters of a value in the list of differences
LINE = 120  # characters of a line of it
KEY = re.compile(r"([A-Za-z_]\w*):")  # of a section, at the start of a line
PLAIN = re.compile(r"[\w.=*/-]+")  # what is told without quotes
HEADER = re.compile(r"(?:#.*\n)*")


class Merged(NamedTuple):
    name: str
    text: str  # the whole params.yaml
    settings: params.Settings
    differences: list[tuple[str, Any, Any]]  # key with its sections, the value of `base`, the study's
    base: str = DEFAULT  # the study that it differs from


def names(folder: Path = FOLDER) -> list[str]:
    """The studies that there are, by name."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def merge(name: str, folder: Path = FOLDER) -> Merged:
    """The study `name` as params.yaml has it. Raises InputError for one that is not there or cannot be."""
    known = names(folder)
    if name not in known:
        raise InputError(
            f"there is no study {name!r}{nearest(name, known)}; {folder}/ holds: {', '.join(known) or 'none'}"
        )
    path, base = Path(folder, f"{name}.yaml"), Path(folder, f"{DEFAULT}.yaml")
    standard = params.text_of(base)
    if name == DEFAULT:
        return Merged(name, standard, params.of_text(standard, base), [])
    merged, chain = _parsed(standard, base), _chain(name, folder, known)
    differences: list[tuple[str, Any, Any]] = []
    for one, own in chain:
        differences.clear()  # but those of the last, which is the study itself
        own["study"] = own.get("study", one) if one == name else merged["study"]
        _put(merged, own, "", differences)
    onto = [Path(folder, f"{one}.yaml") for one, _ in reversed(chain[:-1])] + [base]
    text = _header(path, onto, params.text_of(path)) + _spaced(_dumped(merged), standard)
    try:
        settings = params.of_text(text, path)
    except InputError:
        params.of_text(standard, base)  # the study is not to blame where the default itself is wrong
        raise
    return Merged(name, text, settings, differences, chain[-2][0] if len(chain) > 1 else DEFAULT)


def _chain(name: str, folder: Path, known: list[str]) -> list[tuple[str, Any]]:
    """(name, sections) of the study `name` behind those that it is based on, the default left out."""
    chain: list[tuple[str, Any]] = []
    while name != DEFAULT:
        path = Path(folder, f"{name}.yaml")
        own = _parsed(params.text_of(path), path)
        chain.insert(0, (name, own))
        name = own.pop("base", DEFAULT)
        if name not in known:
            raise InputError(f"{path}: base: there is no study {name!r}{nearest(str(name), known)}")
        if name in [one for one, _ in chain]:
            raise InputError(f"{path}: base: {name} is based on this study itself; name another, or none")
    return chain


def override(merged: Merged, overrides: dict) -> Merged:
    """`merged` with `overrides` over it, sections of which hold only what differs, as a study's file does.

    Raises InputError, which names them, where that is no study.
    """
    path = Path(f"{merged.name} with overrides")
    try:
        written = json.dumps(overrides, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: expected sections of numbers, words, lists: {error}") from None
    whole, own = _parsed(merged.text, path), _parsed(written, path)
    differences = list(merged.differences)
    _put(whole, own, "", differences)
    head = f"{HEADER.match(merged.text)[0]}# With what this run overrides: {written}\n\n"
    text = head + _spaced(_dumped(whole), merged.text)
    return Merged(merged.name, text, params.of_text(text, path), differences)


def told(merged: Merged) -> str:
    """The differences, a line a section: `train   epochs 20 → 4 · batch_size 12 → 8`."""
    sections: dict[str, list[str]] = {}
    for key, before, after in merged.differences:
        section, _, inside = key.partition(".")
        phrase = f"{_shown(before)} → {_shown(after)}"
        sections.setdefault(section, []).append(f"{inside} {phrase}" if inside else phrase)
    if not (changed := {name: lines for name, lines in sections.items() if name != "study"}):
        return f"study {merged.name}: nothing differs from {_called(merged.base)}"
    width = max(map(len, changed))
    lines = [
        textwrap.fill(f"  {name.ljust(width)}  {' · '.join(phrases)}", LINE, subsequent_indent=" " * (width + 4),
                      break_long_words=False, break_on_hyphens=False)
        for name, phrases in changed.items()
    ]  # fmt: skip
    return "\n".join([f"study {merged.name}: as {_called(merged.base)}, but for", *lines])


def _called(base: str) -> str:
    return "the default study" if base == DEFAULT else f"the study {base}"


def _put(target, own, within: str, differences: list) -> None:
    """Put the entries of the section `own` over those of `target`, comments along with them."""
    other_model = "architecture" in own and own["architecture"] != target.get("architecture")
    for key, value in own.items():
        place, before = f"{within}{key}", target.get(key)
        whole = place == "train.config" and other_model
        if isinstance(value, dict) and isinstance(before, dict) and not whole and not _is_source(place, value):
            _put(before, value, f"{place}.", differences)
        elif key not in target or _differs(before, value):
            differences.append((place, before, value))
            _cut(value)
            target[key] = value
            _comment(target, own, key)


def _is_source(place: str, value: dict) -> bool:
    return place.startswith("fetch.") and "kind" in value


def _differs(one, other) -> bool:
    return isinstance(one, bool) != isinstance(other, bool) or one != other  # to Python, True is 1


def _comment(target, own, key) -> None:
    """Give the entry `key` of `target` the comment that it has in `own`, if it has one there."""
    here, there = (section.ca.items.get(key, [None] * 4) for section in (target, own))
    said, behind = _said(here[2]) if here[2] else ("", "")
    if there[2] and (own_words := _said(there[2])[0]):
        said, here = own_words, there
    if here[2]:
        nested = isinstance(target[key], (dict, list)) and not target[key].fa.flow_style()
        # What stands behind the line belongs to the next one, which now is the first of what is nested.
        here[2].value = said + ("" if nested else behind)
        target.ca.items[key] = here


def _said(token) -> tuple[str, str]:
    """(the comment that belongs to the line, what follows it: empty lines, comments on what comes next)."""
    if not token.value.startswith("#"):
        return "", token.value
    first, *lines = token.value.splitlines(keepends=True)
    count = 0
    while count < len(lines) and lines[count].find("#") == token.start_mark.column:
        count += 1  # goes on below, in the same column
    return first + "".join(lines[:count]), "".join(lines[count:])


def _cut(value) -> None:
    """Take from the comments inside `value` what stands behind it in the study: that is about something else there."""
    if not hasattr(value, "ca"):
        return
    for comment in value.ca.items.values():
        for token in comment or ():
            if hasattr(token, "value"):
                token.value = _said(token)[0] or "\n"
    for part in value.values() if isinstance(value, dict) else value:
        _cut(part)


def _yaml():
    from ruamel.yaml import YAML, RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        pass

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _parsed(text: str, path: Path):
    """The sections in `text`, with comments. Raises InputError where there are none."""
    from ruamel.yaml import YAMLError
    from ruamel.yaml.comments import CommentedMap

    try:
        raw = _yaml().load(text)
    except (YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return CommentedMap()  # nothing but comments: the default under another name
    if not isinstance(raw, CommentedMap):
        raise InputError(f"{path}: expected sections such as `train:` and `prune:`, found {type(raw).__name__}")
    return raw


def _dumped(merged) -> str:
    """The sections as text, without the comment at their head."""
    stream = io.StringIO()
    _yaml().dump(merged, stream)
    return stream.getvalue()[HEADER.match(stream.getvalue()).end() :].lstrip("\n")


def _header(path: Path, onto: list[Path], written: str) -> str:
    """The comment at the head of what is merged: where it is from, and what the study says of itself."""
    bases = " and ".join(map(str, onto))
    return f"# The study that runs: {path} merged onto {bases}, complete.\n{HEADER.match(written)[0]}\n"


def _spaced(text: str, standard: str) -> str:
    """`text` with an empty line before the sections that have one in `standard`: a replaced last line took it along."""
    lines = standard.splitlines()
    apart = {key[1] for before, line in itertools.pairwise(lines) if not before and (key := KEY.match(line))}
    spaced: list[str] = []
    for line in text.splitlines():
        if (key := KEY.match(line)) and key[1] in apart and spaced and spaced[-1]:
            spaced.append("")
        spaced.append(line)
    return "\n".join(spaced).rstrip() + "\n"


def _shown(value) -> str:
    """A value in one short line, as YAML writes it in flow style."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {_shown(part)}" for key, part in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(map(_shown, value)) + "]"
    elif isinstance(value, str) and value:
        text = value if PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    else:
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 2]} …"
