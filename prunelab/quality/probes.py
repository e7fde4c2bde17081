"""What is asked of every model of a study beside its loss: further texts, corrupted text, prompts, questions.

The dense model's stage prepares what is asked once; each variant answers the same, and is compared with dense answer by
answer. Each probe is switched off by an empty setting.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from prunelab.data import probes as brought
from prunelab.errors import InputError
from prunelab.models import loading
from prunelab.quality import chat, quality, robustness, samples, texts
from prunelab.quality.answers import pooling, scoring
from prunelab.quality.answers.pairing import Answers as TaskAnswers
from prunelab.quality.answers.pairing import compare
from prunelab.quality.windows import PADDING, Windows, spread


class Answers(NamedTuple):
    bits: np.ndarray | None  # (cells, texts) bits per byte of corrupted text, in the order of robustness.cells
    samples: list[dict]  # as in quality.json
    tasks: list[TaskAnswers]
    texts: dict[str, quality.Scores]  # of further texts and other windows


def prepare(tokenizer, text: bytes, tokenised, windows: Windows, wanted, probes: Path) -> dict[str, np.ndarray]:
    """What is asked as arrays, for `Reference.extra`.

    text: the study's own, as `tokenised` and cut to `windows`. wanted: the settings' `quality` section. probes: the
    folder that the stage probes wrote.
    """
    further = {name: brought.text_of(probes, name) for name in wanted.texts}
    asked = texts.prepare(tokenizer, further, tokenised, wanted)
    if wanted.robustness.texts:
        in_order = np.argsort(windows.spans[:, 0])
        rows = in_order[spread(len(in_order), wanted.robustness.texts)]
        cut = robustness.corrupted_windows(
            tokenizer,
            [text[start:stop].decode("utf-8") for start, stop in windows.spans[rows].tolist()],
            wanted.context,
            wanted.robustness.kinds,
            wanted.robustness.strengths_percent,
            wanted.robustness.seed,
        )
        asked |= {"robustness.tokens": cut.tokens, "robustness.bytes": cut.bytes}
    if wanted.samples.prompts:
        ids = [chat.token_ids(tokenizer, prompt, wanted.samples.chat) for prompt in wanted.samples.prompts]
        longest = max(len(one) for one in ids)
        asked["samples.prompts"] = np.array([one + [PADDING] * (longest - len(one)) for one in ids], dtype=np.int32)
    return asked


def ask(model, folder: Path, name: str, asked: dict[str, np.ndarray], wanted, probes: Path) -> Answers:
    """What the model of `folder` answers; name: of the variant, for errors and the progress bar.

    probes: the folder that the stage probes wrote, for files of questions.
    """
    bits, written, tasks = None, [], []
    if wanted.robustness.texts:
        scores = quality.score(model, asked["robustness.tokens"], name, batch_tokens=wanted.batch_tokens)
        bits = robustness.bits(scores.nll, asked["robustness.bytes"], len(_cells(wanted)))
    if wanted.samples.prompts:
        ids = [[token for token in row if token != PADDING] for row in asked["samples.prompts"].tolist()]
        seeds = [None, *wanted.samples.seeds]
        more = samples.continuations(model, ids, wanted.samples.tokens, seeds, wanted.samples.temperature)
        written = samples.figures(
            _plain_tokenizer(folder), wanted.samples.prompts, seeds, more, model.config.eos_token_id
        )
    if wanted.questions.names:
        names = brought.tasks(probes, wanted.questions.names)
        tasks = _questions(model, loading.tokenizer_of(folder, folder), name, names, wanted)
    return Answers(bits, written, tasks, texts.ask(model, name, asked, wanted))


def _questions(model, tokenizer, name: str, names: list[str], wanted) -> list[TaskAnswers]:
    """The tasks `names`: files of questions by this project's scorer, then all others by lm-eval."""
    local = [one for one in names if one.endswith(".jsonl")]
    others = [one for one in names if one not in local]
    tasks = []
    if local:
        tasks += scoring.evaluate(
            model,
            tokenizer,
            local,
            name,
            limit=wanted.questions.limit,
            chat_setting=wanted.questions.chat,
            batch_tokens=wanted.batch_tokens,
        )
    if others:
        from prunelab.quality.answers import library  # only now: it is an extra

        tasks += library.evaluate(
            model,
            tokenizer,
            others,
            limit=wanted.questions.limit,
            shots=wanted.questions.shots,
            batch=max(1, wanted.batch_tokens // wanted.context),
        )
    return tasks


def kept(answers: Answers) -> dict[str, np.ndarray]:
    """The dense model's answers as arrays, for `Reference.extra`."""
    arrays = texts.kept(answers.texts)
    if answers.bits is not None:
        arrays["robustness.bits"] = answers.bits
    if answers.samples:
        arrays["samples.repetition"] = np.array([one["repetition"] for one in answers.samples])
    for task in answers.tasks:
        mark = f"tasks.{task.figures['task']}"
        arrays |= {f"{mark}.{metric}": each for metric, each in task.scores.items()}
        if sha256 := task.figures["sha256"]:
            arrays[f"{mark}.sha256"] = np.array(list(bytes.fromhex(sha256)), dtype=np.uint8)
    return arrays


def figures(answers: Answers, dense: dict[str, np.ndarray], wanted) -> dict:
    """The keys `texts`, `also_contexts`, `robustness`, `repetition…`, `samples`, `tasks`, `pooled_…` of quality.json.

    dense: what `prepare` and `kept` gave for dense.

    Raises InputError when a task asked dense other questions.
    """
    found = texts.figures(answers.texts, dense, wanted)
    found |= {"robustness": [], "samples": answers.samples, "tasks": []}
    if answers.bits is not None:
        kinds, strengths = wanted.robustness.kinds, wanted.robustness.strengths_percent
        found["robustness"] = robustness.figures(
            answers.bits, dense["robustness.bits"], kinds, strengths, wanted.bootstrap_draws
        )
    if answers.samples:
        mine = np.array([one["repetition"] for one in answers.samples])
        found |= samples.repetition_figures(mine, dense["samples.repetition"], wanted.bootstrap_draws)
    theirs = {}
    for task in answers.tasks:
        mark = f"tasks.{task.figures['task']}."
        of_task = {name.removeprefix(mark): each for name, each in dense.items() if name.startswith(mark)}
        compared = compare(task, of_task, wanted.bootstrap_draws)
        found["tasks"].append(compared | pooling.beside_chance(compared, of_task))
        theirs[task.figures["task"]] = of_task
    return found | pooling.pooled(answers.tasks, theirs, wanted.bootstrap_draws)


def _cells(wanted) -> list[tuple[str, int]]:
    return robustness.cells(wanted.robustness.kinds, wanted.robustness.strengths_percent)


def _plain_tokenizer(folder: Path):
    """The folder's tokenizer without transformers around it: all that decoding needs, in a hundredth of the time."""
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; samples need the model's tokenizer beside it, or samples.prompts: []")
    return Tokenizer.from_file(str(path))
