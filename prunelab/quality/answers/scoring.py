"""Files of questions, asked by this project's own scorer: lm-eval's figures (0.4.13), from a quarter of the tokens.

Of a question with choices the answer is the one with the highest log-likelihood behind `query` and a space (`acc`), or
with the highest per character (`acc_norm`); `right_probability` is the softmax of the log-likelihoods at the right one.

An answer that is written (greedily) is right where its first line, or that line up to a mark that ends a phrase, is one
of the accepted spellings, both as `normalised` makes them; `right_probability` is that of the likeliest spelling behind
the query, and a guess is never right: chance 0.
"""

import re
import string
import unicodedata
from pathlib import Path

import numpy as np

from prunelab.data import questions
from prunelab.disk.files import sha256_file
from prunelab.errors import InputError
from prunelab.models import models
from prunelab.quality import chat
from prunelab.quality.answers.likelihoods import Asked, Found, ask
from prunelab.quality.answers.pairing import Answers, mean_and_error

MORE = 4  # tokens that a model may write beyond the longest accepted spelling: "the" before it, a full stop behind
PHRASE = re.compile(r"[.;:!?,](\s|$)|\s\(")


def evaluate(
    model, tokenizer, names: list[str], name: str, *, limit: int | None, chat_setting: bool | str, batch_tokens: int
) -> list[Answers]:
    """What each of the files `names` gave; limit: questions a file, None for all; name: of the variant, for the bar.

    chat_setting: as quality.questions.chat. Raises InputError for a broken file, and for a question that this model's
    tokenizer or context can't take.
    """
    turns = in_chat(tokenizer, chat_setting)
    files = {Path(one).stem: Path(one).expanduser() for one in names}
    sets = {stem: questions.read_questions(path)[:limit] for stem, path in files.items()}
    items: dict[str, list[Asked]] = {}
    for stem, rows in sets.items():
        items[stem] = [_asked(tokenizer, row, turns) for row in rows]
        check_lengths(files[stem], rows, items[stem], models.context_length(model.config))
    found = ask(
        model,
        [one for of_set in items.values() for one in of_set],
        f"{name}, questions",
        batch_tokens=batch_tokens,
        ended=lambda tokens: "\n" in tokenizer.decode(tokens).lstrip() or tokenizer.eos_token_id in tokens,
    )
    answers, each = [], iter(found)
    for stem, rows in sets.items():
        mine = [next(each) for _ in rows]
        scores = {metric: np.array(values) for metric, values in _scores(tokenizer, rows, mine).items()}
        answers.append(Answers(_figures(stem, files[stem], rows, items[stem], scores, turns), scores))
    return answers


def in_chat(tokenizer, setting: bool | str) -> bool:
    """Whether questions are asked as a user's turns: `auto` where a turn of the template ends as the model's texts do.

    That is the mark of a model that was taught to end its turns. A base model may ship the template of its sibling, but
    its own end of a text is another token. Raises InputError for true without a template.
    """
    if setting is False:
        return False
    if not chat.has_template(tokenizer):
        if setting is True:
            raise InputError("quality.questions.chat: true, but this model's tokenizer has no chat template; set auto")
        return False
    return setting is True or chat.ends_its_turns(tokenizer)


def right_probability(likelihoods: list[float], gold: int) -> float:
    """The softmax of log-likelihoods at the right choice."""
    values = np.exp(np.array(likelihoods) - max(likelihoods))
    return float(values[gold] / values.sum())


def normalised(text: str) -> str:
    """`text` in lower case, without punctuation, articles and more than single blanks: as SQuAD does (1606.05250)."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(" " if letter in string.punctuation else letter for letter in text)
    words = text.split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def is_right(text: str, answers: list[str]) -> bool:
    """Whether the first line of what a model wrote, or that up to a mark that ends a phrase, is one of the answers."""
    line = text.strip().partition("\n")[0]
    said = {normalised(line), normalised(PHRASE.split(line, maxsplit=1)[0])}
    return bool(said & {normalised(answer) for answer in answers})


def _scores(tokenizer, rows: list[dict], found: list[Found]) -> dict[str, list[float]]:
    """Metric → a value a question."""
    scores: dict[str, list[float]] = {}

    def add(**values: float) -> None:
        for metric, value in values.items():
            scores.setdefault(metric, []).append(float(value))

    for row, one in zip(rows, found, strict=True):
        nats = np.array(one.likelihoods)
        if "answers" in row:
            end = tokenizer.eos_token_id
            written = one.written[: one.written.index(end)] if end in one.written else one.written
            right = is_right(tokenizer.decode(written, skip_special_tokens=True), row["answers"])
            add(acc=right, right_probability=np.exp(nats.max()), right_loglikelihood=nats.max())
            continue
        gold, characters = row["gold"], np.array([len(choice) for choice in row["choices"]])
        add(
            acc=nats.argmax() == gold,  # of a tie the first, as lm-eval
            acc_norm=(nats / characters).argmax() == gold,
            right_probability=right_probability(one.likelihoods, gold),
            right_loglikelihood=nats[gold],
        )
    return scores


def _figures(stem: str, path: Path, rows: list[dict], items: list[Asked], scores: dict, turns: bool) -> dict:
    chances = [0.0 if "answers" in row else 1 / len(row["choices"]) for row in rows]
    right = [item.continuations[row.get("gold", 0)] for row, item in zip(rows, items, strict=True)]
    figures = {
        "task": stem,
        "version": None,
        "shots": 0,
        "questions": len(rows),
        "sha256": sha256_file(path),
        "chance": float(np.mean(chances)),
        "chat": turns,
        "query_tokens": float(np.mean([len(item.prompt) for item in items])),
        "answer_tokens": float(np.mean([len(one) for one in right])),
    }
    for metric, each in scores.items():
        figures |= mean_and_error(metric, each)
    return figures


def _asked(tokenizer, row: dict, turns: bool) -> Asked:
    """A question as tokens, cut into query and answers as lm-eval does: what the whole has more tokens than the query.

    As a user's turn, the answer begins the model's own turn, without a space.
    """
    texts = row["answers"] if "answers" in row else row["choices"]
    if turns:
        prompt, before, special = chat.as_turn(tokenizer, row["query"].rstrip()), "", False
    else:
        blanks = row["query"][len(row["query"].rstrip()) :]
        prompt, before, special = row["query"].rstrip(), f"{blanks} ", None
    if not prompt:
        first = prefix_token(tokenizer)
        if first is None:
            known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
            first = next(token for token in known if token is not None)
        answers = [_encode(tokenizer, before + text, False) for text in texts]
        if all(len(one) > 1 and one[0] == first for one in answers):  # the tokenizer puts it there itself
            answers = [one[1:] for one in answers]
        ids = [first]
    else:
        ids = _encode(tokenizer, prompt, special)
        answers = [_encode(tokenizer, prompt + before + text, special)[len(ids) :] for text in texts]
    write = max(len(one) for one in answers) + MORE if "answers" in row else 0
    return Asked(ids, answers, write)


def _encode(tokenizer, text: str, special: bool | None) -> list[int]:
    """special: with the special tokens around a text; None: as the tokenizer does, unless the text begins with one."""
    if special is None:
        beginning = tokenizer.bos_token or tokenizer.eos_token
        special = not (beginning and text.startswith(beginning))  # as lm-eval: none twice
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def check_lengths(path: Path, rows: list[dict], items: list[Asked], longest: int | None) -> None:
    """Raises InputError for an answer that a model of `longest` tokens cannot take; a long query loses its beginning.

    Also for a query or answer of which this tokenizer leaves nothing.
    """
    for row, item in zip(rows, items, strict=True):
        where, texts = f"{path}, line {row['line']}", row["answers"] if "answers" in row else row["choices"]
        counts = [len(one) for one in item.continuations]
        if not item.prompt or min(counts) < 1:
            nothing = row["query"] if not item.prompt else texts[counts.index(min(counts))]
            raise InputError(
                f"{where}: expected a query and answers that this model's tokenizer knows, found that it leaves no "
                f"token of {nothing!r}"
            )
        if longest is not None and max(counts) > longest:
            kind = "an answer" if "answers" in row else "a choice"
            raise InputError(f"{where}: {kind} of {max(counts)} tokens, but this model's context is {longest}")


def prefix_token(tokenizer) -> int | None:
    """The id of the token that stands before a text without a context; None: lm-eval's own choice.

    That is the beginning or end of a text, whose id may be 0. A tokenizer without special tokens lends its new line,
    or its blank, or, where it knows neither, whatever token it has first.
    """
    if tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None:
        return None
    for character in ("\n", " "):
        ids = tokenizer.encode(character)
        if ids and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    return min(tokenizer.get_vocab().values())
