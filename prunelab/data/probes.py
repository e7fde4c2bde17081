"""What models are asked beside the text that they are judged on: further texts and files of questions, in one folder.

A stage of its own brings them (`stages.probes`), which judging alone reads: another question trains and prunes nothing.

    texts/<name>/text.txt, manifest.json    each of quality.texts, whole
    questions/<file>                        each file of quality.questions.names, as it was read
    manifest.json                           of all of them: source, sha256, bytes, licence
"""

import shutil
from pathlib import Path

from prunelab.data import questions, text
from prunelab.disk import files
from prunelab.errors import InputError

MANIFEST = "manifest.json"
LICENCES = ("LICENCE", "LICENSE")  # a file of that name beside questions says in its first line what theirs is


def prepare(texts: dict, names: list[str], out: Path) -> dict:
    """Bring the further texts (source by name) and the files of questions among the tasks `names` into folder `out`.

    Raises InputError for what cannot be brought and what is no question. Returns the manifest.
    """
    brought = {name: text.prepare_whole(source, out / "texts" / name) for name, source in texts.items()}
    asked = {name: _copied(name, path, out / "questions") for name, path in questions.local(names).items()}
    manifest = {"texts": brought, "questions": asked}
    files.write_json(out / MANIFEST, manifest)
    return manifest


def _copied(name: str, path: Path, folder: Path) -> dict:
    questions.read_questions(path)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.name
    shutil.copyfile(path, copy)
    beside = [path.parent / licence for licence in LICENCES if (path.parent / licence).is_file()]
    lines = files.read_text(beside[0]).splitlines() if beside else []
    facts = {"source": {"kind": "path", "name": name}, "sha256": files.sha256_file(copy)}
    return facts | {"bytes": copy.stat().st_size, "licence": lines[0].strip() if lines else None}


def hashes(folder, texts: list[str], names: list[str]) -> dict[str, str]:
    """The sha256 of each of the further `texts` and of each file of questions among the tasks `names`.

    Raises InputError where the folder doesn't hold one of them; where none is asked for it need not be there.
    """
    wanted = {"texts": texts, "questions": list(questions.local(names))}
    if not any(wanted.values()):
        return {}
    manifest = _manifest(folder)
    for part, among in wanted.items():
        for name in among:
            if name not in manifest[part]:
                found = ", ".join(manifest[part]) or "none"
                raise InputError(
                    f"{folder}: expected {name} of quality.{part}, found {found}; run the stage probes again "
                    "(dvc repro probes)"
                )
    return {name: manifest["texts"][name]["text"]["sha256"] for name in texts} | {
        name: manifest["questions"][name]["sha256"] for name in wanted["questions"]
    }


def text_of(folder, name: str) -> str:
    """The further text `name`."""
    return files.read_text(Path(folder) / "texts" / name / "text.txt")


def tasks(folder, names: list[str]) -> list[str]:
    """The tasks `names`, with every file of questions as it lies in the folder, under the same file name."""
    local = questions.local(names)
    return [str(Path(folder) / "questions" / local[name].name) if name in local else name for name in names]


def _manifest(folder) -> dict:
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage probes first (dvc repro probes)")
    return files.read_json(path)
