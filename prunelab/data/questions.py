"""Files of questions, read as all texts are (`reading`): JSON lines of {query, choices, gold}, or, where the answer is
to be written, of {query, answer} or {query, answers} (the spellings that count)."""

from pathlib import Path

from prunelab.data import reading
from prunelab.disk.files import sha256_file
from prunelab.errors import InputError

COMPLAINT = "{name}, line {number}: expected {{query, choices, gold}}, found {reason}"  # of a line that is no JSON


def local(names: list[str]) -> dict[str, Path]:
    """The files of questions among the tasks `names`, by their names; the others are lm-eval's own."""
    return {name: Path(name).expanduser() for name in names if name.endswith(".jsonl")}


def hashes(names: list[str]) -> dict[str, str]:
    """The sha256 of every file of questions among the tasks `names`. Raises InputError for one that is not there."""
    found = local(names)
    for path in found.values():
        _require(path)
    return {name: sha256_file(path) for name, path in found.items()}


def _require(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"quality.questions.names: {path}: no such file")


def read_questions(path: Path) -> list[dict]:
    """The rows of a JSONL file: query, choices, gold, or query, answers, and `line`, where it stands.

    Raises InputError that names the line which is no question, or one of another kind than the first.
    """
    _require(path)
    rows = []
    for number, row in reading.json_lines(path, str(path), COMPLAINT):
        where = f"{path}, line {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected {{query, choices, gold}}, found {reading.kind(row)}")
        written = "answer" in row or "answers" in row
        missing = [key for key in ("query", *(() if written else ("choices", "gold"))) if key not in row]
        if missing:
            raise InputError(f"{where}: expected {{query, choices, gold}}, found {missing[0]!r} missing")
        query = reading.text(row["query"], f"{where}: expected a text as `query`")
        if query and not query.strip():
            raise InputError(f"{where}: expected a `query` with words or an empty one, found nothing but blanks")
        if rows and written != ("answers" in rows[0]):
            kinds = ("choices to choose from", "an answer to write")
            raise InputError(f"{where}: expected {kinds['answers' in rows[0]]} as before, found {kinds[written]}")
        if written:
            rows.append({"query": query, "answers": _answers(row, where), "line": number})
            continue
        choices = _choices(row["choices"], where)
        gold = row["gold"]
        if type(gold) is not int or not 0 <= gold < len(choices):
            raise InputError(f"{where}: gold is {gold!r}, expected the index of one of {len(choices)} choices")
        # Of equal choices the first is taken, so the second could never be right. Equal wrong ones do no harm.
        if choices.count(choices[gold]) > 1:
            raise InputError(f"{where}: expected one right choice, found {choices[gold]!r} more than once")
        rows.append({"query": query, "choices": choices, "gold": gold, "line": number})
    if not rows:
        raise InputError(f"{path}: no questions in it")
    return rows


def _answers(row: dict, where: str) -> list[str]:
    """The spellings that count as right."""
    if "answer" in row and ("answers" in row or "choices" in row):
        other = "answers" if "answers" in row else "choices"
        raise InputError(f"{where}: expected `answer` or `{other}`, found both")
    answers = row["answers"] if "answers" in row else [row["answer"]]
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{where}: expected `answers` to be a list of at least one, found {reading.kind(answers)}")
    texts = [reading.text(one, f"{where}: expected a text as answer {i}") for i, one in enumerate(answers)]
    if any(not one.strip() or "\n" in one for one in texts):
        raise InputError(f"{where}: expected answers of one line with something in it, found {texts!r}")
    return texts


def _choices(choices, where: str) -> list[str]:
    if not isinstance(choices, list) or len(choices) < 2:
        found = f"{len(choices)}" if isinstance(choices, list) else reading.kind(choices)
        raise InputError(f"{where}: expected `choices` to be a list of at least two, found {found}")
    texts = [reading.text(one, f"{where}: expected a text as choice {i}") for i, one in enumerate(choices)]
    empty = [str(i) for i, one in enumerate(texts) if not one.strip()]
    if empty:
        raise InputError(f"{where}: expected a text as choice {empty[0]}, found nothing in it")
    return texts
