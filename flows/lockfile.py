"""dvc.lock read and written a stage at a time: the cost of a stage no longer grows with the stages of a study.

DVC reads the whole file for every stage and writes it whole after each, by a parser and a writer in Python: some 50 ms
a variant of the study, under DVC's lock, so that in a study of 500 variants every stage would wait half a minute for
dvc.lock alone, and no other could begin or end meanwhile. Here a stage's entry is parsed when it is asked for, and one
that changed is put in the place of the old one. What is written are the bytes that DVC writes
(tests/flows/test_lockfile.py); a file that does not look as DVC writes it is left to DVC.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

HEAD = "schema: '2.0'\nstages:\n"
OUTER = re.compile(r"\n {0,2}(?=[^ \n])")  # where a line begins that is none of an entry's own, which have more spaces
ALIAS = " *id"  # so begins what YAML doesn't write out a second time; what merely looks so is DVC's to read, too
NAME = re.compile(r"\n  ([A-Za-z0-9_][^\s:'\"]*):(?=\n)")


class Entries(Mapping):
    """Stage → its entry in the text of a dvc.lock, parsed when it is asked for."""

    def __init__(self, text: str):
        """Raises ValueError for a text that does not look as DVC writes it."""
        if not (text.startswith(HEAD) and text.endswith("\n")):
            raise ValueError("it does not begin and end as DVC writes it")
        if ALIAS in text:
            raise ValueError("an entry may refer to what stands in another")
        self.text, starts = text, []
        for line in OUTER.finditer(text, len(HEAD) - 1):
            if (name := NAME.match(text, line.start())) is None:
                raise ValueError("something stands in it that is no entry of a stage")
            starts.append((name[1], line.start() + 1))
        ends = [start for _, start in starts[1:]] + [len(text)]
        self.places = {name: (start, end) for (name, start), end in zip(starts, ends, strict=True)}
        if len(self.places) < len(starts):
            raise ValueError("a stage stands in it twice")

    def __getitem__(self, name: str) -> dict:
        """The entry. Raises DVC's own exceptions for one that is no YAML, or not as DVC wants it."""
        from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
        from dvc.utils.serialize._yaml import parse_yaml
        from dvc.utils.strictyaml import validate

        start, end = self.places[name]
        entry = parse_yaml(self.text[start:end], "dvc.lock")[name]
        validate(entry, COMPILED_LOCK_FILE_STAGE_SCHEMA, text=self.text[start:end], path="dvc.lock")
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name) -> bool:
        return name in self.places  # without a look at what it holds

    def replaced(self, name: str, entry: dict) -> str:
        """The text with another entry for this stage; a new one stands last, as with DVC.

        Raises ValueError where DVC must write it: its name needs quotes, or something in it stands in two places.
        """
        from dvc.utils.serialize._yaml import _dump

        written = io.StringIO()
        _dump({"stages": {name: entry}}, written)
        block = written.getvalue().removeprefix("stages:\n")
        if [*Entries(HEAD + block)] != [name]:
            raise ValueError(f"{name} is no plain name")
        start, end = self.places.get(name, (len(self.text), len(self.text)))
        return self.text[:start] + block + self.text[end:]


def read(path: Path) -> Entries | None:
    """The entries of the file; None where it is not there, or not as DVC writes it."""
    try:
        return Entries(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # text that is no UTF-8 is a ValueError too: DVC tells it
        return None


def updated(entries: Entries, stages: list, options: dict) -> str | None:
    """The text with the entries of `stages` as they are now; None where DVC must write one."""
    from dvc.stage import serialize

    text = entries.text
    for stage in stages:
        entries = entries if text is entries.text else Entries(text)
        (entry,) = serialize.to_lockfile(stage, **options).values()
        if stage.name not in entries or entries[stage.name] != entry:
            try:
                text = entries.replaced(stage.name, entry)
            except ValueError:
                return None
    return text


def install() -> None:
    """From now on DVC reads and writes the dvc.lock of a working tree so, in this process."""
    from dvc.dvcfile import Lockfile

    from prunelab.disk import files

    if hasattr(Lockfile, "dump_whole"):
        return
    Lockfile.load_whole, Lockfile.dump_whole = Lockfile._load_yaml, Lockfile.dump_stages

    def entries_of(lockfile) -> Entries | None:
        return read(Path(lockfile.path)) if lockfile.repo.fs.protocol == "local" else None  # else of a git revision

    def load(self, **options):
        entries = None if options else entries_of(self)
        return self.load_whole(**options) if entries is None else ({"schema": "2.0", "stages": entries}, entries.text)

    def dump_stages(self, stages, **options):
        before = entries_of(self)
        after = None if before is None else updated(before, stages, options)
        if after is None:
            self.dump_whole(stages, **options)
        elif after is not before.text:
            with files.whole_file(Path(self.path)) as partial:  # DVC writes in place, where a kill leaves half a file
                partial.write_text(after, encoding="utf-8")
            self.repo.scm_context.track_file(self.relpath)

    Lockfile._load_yaml, Lockfile.dump_stages = load, dump_stages
