"""What holds for which architecture: `python -m tests.helpers.architecture_table` writes docs/architectures.md.

Every architecture of zoo.py goes through the stages twice, as a model trained here for a few steps and as a fetched
folder, and every column is a check of architecture_checks.py. There are two cells: exact, and refused with the sentence
the user gets. Anything else is told and ends the command with an error. `--only NAME` prints one row.
"""

import argparse
import contextlib
import copy
import io
import sys
import tempfile
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from transformers import TrainerCallback

from prunelab import tasks
from prunelab.data import text
from prunelab.disk.files import whole_directory
from prunelab.errors import InputError
from prunelab.models import models, pretrained
from prunelab.study import params
from prunelab.training import training
from prunelab.training.characters import character_tokenizer
from tests.helpers import architecture_checks as checks
from tests.helpers import studies, zoo

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "architectures.md"
ORIGINS = {"trained": "trained here", "fetched": "fetched"}  # column of the origin → its heading
COLUMNS = {  # heading → check
    "masks": checks.masks,
    "calibrated": checks.calibrated,
    "averaged": checks.averaged,
    "best": checks.best,
    "mlp-width": checks.mlp_width,
    "head-width": checks.head_width,
    "depth": checks.depth,
    "int8, int4": checks.quantised,
    "ONNX": checks.exported,
    "recovery": checks.recovered,
    "MACs": checks.counted,
}
ONLY_TRAINED = {"averaged", "best"}
ONLY_FETCHED = {"ONNX"}  # the file is made of the weights alone, and making it takes as long as all the rest
DATA, DENSE = Path("data/fetched"), Path("models/dense")
CONTEXT, SEED = 16, 1
PROCESSES = 2
EXACT = "exact"
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
INTRODUCTION = """\
# What holds for which architecture

Written by `python -m tests.helpers.architecture_table`; a slow test makes some of its rows again. A small random
model of each of {trained} architectures, with its windows, groups, experts and odd switches on, goes through the stages
twice: trained here for a few steps, and fetched as a folder that others published. What comes out is compared with the
same done plainly, by hooks and hand on the whole model in memory (`architecture_checks.py` and `by_hand.py` of
`tests/helpers/`).

*exact*: equal to the plain reference. *refused*: the user gets the sentence of that number, and no result. There is no
third state: anything else fails the test. A cell is of both origins, or of the one that is not refused altogether.
Prunable are the `Linear` and `Conv1D` layers of the blocks; the fused experts of mixtures of experts are neither, and
no mask and no width touches them. What is equal to what, by column:

- **trained here**: the folder's parameters and the trainer's at the end, to the bit; the losses of all evaluations and
  those of a plain loop over the same windows, 1e-5. **fetched**: every parameter and the published one, to the bit.
- **masks**: `magnitude-50`, every parameter, to the bit, and the counts of `sparsity.json`.
- **calibrated**: `wanda-50` and `taylor-50`: which half stays (scores within 1e-4 of each other may go either way) and
  every value, to the bit; `sparsegpt-50`: every value, 1e-4 of the largest.
- **averaged**: `dense-average` and `average-magnitude-50`: every parameter and its mean over the ticks, 1e-5 of the
  largest. **best**: `dense-best`, masks and `depth-random` of `prune.checkpoint: best`, and the weights at the best
  evaluation, to the bit. Fetched models have neither.
- **mlp-width**, **head-width**, **depth**: logits of the smaller model, loaded without this package, and of the full
  one in which units are silenced or a block is passed by, in float64, 1e-5 of the largest; and what went.
- **int8, int4**: logits of the folder and of the model quantised in memory, to the bit; and of fp32, {int8:.0%} and
  {int4:.0%} by norm (of the median token).
- **ONNX**: logits of a prompt three windows long, and of pieces behind pasts of four lengths, 1e-3 of the largest
  (of one block, where all are alike).
- **recovery**: a mask's zeros, to the bit; the loss after a few steps from the teacher and a plain loop's, 1e-4.
- **MACs**: of one token: linear layers, attention over what it sees, the experts it uses: the same number. "Unknown"
  is a refusal.

"""


class Found(NamedTuple):
    """What came of one check: exact (no words), refused, or wrong."""

    state: str  # exact | refused | wrong
    words: str = ""


def table(names=None, tell=None) -> dict[str, dict[str, dict[str, Found]]]:
    """Architecture → heading → origin → what was found, of all `names`; `tell` is called with every row."""
    names, found = list(names or zoo.ARCHITECTURES), {}
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        for name, row in zip(names, pool.map(row_of, names), strict=True):
            found[name] = row
            if tell:
                tell(name, row)
    return found


def row_of(name: str) -> dict[str, dict[str, Found]]:
    """Heading → origin → what was found, of one architecture.

    An origin that is refused altogether has no further cells, as long as the other one fills them.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        _write_text(Path(folder) / "text")
        for origin in ORIGINS:
            place = Path(folder) / origin
            place.mkdir()
            with contextlib.chdir(place):
                found[origin] = _of_one(name, origin)
    row = {heading: {} for heading in (*ORIGINS.values(), *COLUMNS)}
    for heading, cell in row.items():
        cell |= {origin: cells[heading] for origin, cells in found.items() if heading in cells}
        told = {origin: one for origin, one in cell.items() if one is not found[origin][ORIGINS[origin]]}
        if heading in COLUMNS and told:
            row[heading] = told
    return row


def _of_one(name: str, origin: str) -> dict[str, Found]:
    """Heading → what was found, of one architecture from one origin; the current folder is empty and its own."""
    made: list[checks.Case] = []

    def start() -> None:
        made.append({"trained": _trained, "fetched": _fetched}[origin](name))
        checks.dense(made[0])
        if origin == "trained":
            checks.trained(made[0])

    first = _judge(start)
    found = {ORIGINS[origin]: first}
    for heading, check in COLUMNS.items():
        if heading in (ONLY_FETCHED if origin == "trained" else ONLY_TRAINED):
            continue
        found[heading] = _judge(lambda check=check: check(made[0])) if made else first
    return found


def _judge(check) -> Found:
    try:
        unknown = check()
    except InputError as error:
        return Found("refused", " ".join(str(error).split()))
    except AssertionError as error:
        return Found("wrong", str(error).partition("\n")[0])
    except Exception as error:  # whatever it is, it is neither exact nor a refusal: the table says so
        return Found("wrong", "".join(traceback.format_exception(error)[-4:]))
    return Found("refused", unknown) if unknown else Found(EXACT)


class Snapshots(TrainerCallback):
    """Copies of all parameters, at every tick of the weight history and at every evaluation."""

    def __init__(self, every: int):
        self.every, self.model, self.ticks, self.evaluations = every, None, [], []

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step % self.every == 0:
            self.ticks.append(checks.parameters(model))

    def on_evaluate(self, args, state, control, model=None, metrics=None, **_):
        self.evaluations.append((metrics["eval_loss"], checks.parameters(model)))

    def on_train_end(self, args, state, control, model=None, **_):
        self.model = copy.deepcopy(model).eval()


def _trained(name: str) -> checks.Case:
    """A model trained here for a few steps, as the stages fetch and train make one."""
    architecture, config = zoo.ARCHITECTURES[name]
    settings = _settings(start="random", architecture=architecture, config=config, epochs=4)
    text.prepare(settings.fetch.text, settings.fetch.split, DATA / "text")
    seen = Snapshots(settings.train.tracker.every)
    with whole_directory(DENSE) as out:
        training.run(settings, tasks.of(settings.task), DATA, out, SEED, callbacks=[seen])
    return checks.Case(name, seen.model, settings, DENSE, DATA, SEED, seen.ticks, seen.evaluations)


def _fetched(name: str) -> checks.Case:
    """A random model as others publish theirs, fetched and taken."""
    tokenizer = character_tokenizer("".join(path.read_text(encoding="utf-8") for path in Path("../text").iterdir()))
    model = zoo.random_model(name, len(tokenizer))
    model.save_pretrained("published")
    tokenizer.save_pretrained("published")
    settings = _settings(start="fetched", architecture=None, tokenizer="fetched", epochs=0)
    text.prepare(settings.fetch.text, settings.fetch.split, DATA / "text")
    pretrained.prepare(settings.fetch.model, DATA / "model")
    with whole_directory(DENSE) as out:
        training.run(settings, tasks.of(settings.task), DATA, out, SEED)
    return checks.Case(name, model, settings, DENSE, DATA, SEED, [], [])


def _write_text(folder: Path) -> None:
    """Three parts. In validation every other letter is none of train's: its loss grows, so the best is not the last."""
    folder.mkdir()
    words = ["the", "king", "of", "all", "men", "loves", "green", "fields", "and", "says", "nothing", "but", "truth"]
    generator = torch.Generator().manual_seed(0)
    for part, count, chosen, between in (
        ("train", 900, words, " "),
        ("validation", 200, ["jawhqt", "zexncl"], ""),
        ("test", 200, words, " "),
    ):
        picks = torch.randint(len(chosen), (count,), generator=generator).tolist()
        (folder / f"{part}.txt").write_text(between.join(chosen[pick] for pick in picks), encoding="utf-8")


def _settings(**changes):
    """The default study on the small text; `changes` go into its section `train`. Written and read as a user's is."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    raw = studies.raw("default")
    raw["fetch"] |= {
        "text": {"kind": "path", "name": "../text"},
        "split": raw["fetch"]["split"] | {"by": "file", "validation_percent": 0, "test_percent": 0, "seed": 0},
        "model": {"kind": "path", "name": "published"} if changes["start"] == "fetched" else None,
    }
    raw["train"] |= {
        "context": CONTEXT, "windows_per_epoch": 16, "batch_size": 4, "learning_rate": 5e-3, "min_learning_rate": 5e-3,
        "warmup_steps": 0, "weight_decay": 0.0, "precision": "fp32", "evaluate_every_epochs": 1,
        "validation_windows": 16, "config": {},
    }  # fmt: skip
    raw["train"]["tracker"] |= {"tick": "steps", "every": 2}
    raw["train"] |= changes
    raw["prune"] |= {"methods": ["magnitude"], "further": []}
    raw["calibrate"] = {
        "samples": 6, "length": 3 * zoo.WINDOW, "seed": 1, "propagate": "dense", "batch_tokens": 72,
        "precision": "fp32", "hidden_states": "memory", "owl_outlier_multiple": 5.0, "owl_span": 0.08,
    }  # fmt: skip
    raw["quality"] |= {"context": CONTEXT}
    with open("params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(raw, file)
    return params.load()


@contextlib.contextmanager
def _quiet():
    """No library's hints; and fp32 everywhere, so that a machine with bf16 units fills in the same table."""
    from transformers.utils import logging

    verbosity, bars, threads = logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)  # these matrices are so small that sharing them costs more than it brings
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), mock.patch.object(models, "computes_bf16", return_value=False):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints its losses
                yield
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def wrong(found: dict) -> list[str]:
    """A line for everything that is neither exact nor refused."""
    return [
        f"{name}: {heading} ({ORIGINS[origin]}): {one.words}"
        for name, row in found.items()
        for heading, origins in row.items()
        for origin, one in origins.items()
        if one.state == "wrong"
    ]


def page(found: dict) -> str:
    """docs/architectures.md."""
    sentences: list[str] = []
    headings = ["architecture", *ORIGINS.values(), *COLUMNS]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for name, row in found.items():
        cells = [_cell(origins, sentences) for origins in row.values()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    notes = [f"{number}. {sentence.replace('<', '&lt;')}" for number, sentence in enumerate(sentences, start=1)]
    return (
        INTRODUCTION.format(trained=len(found), **checks.QUANTISED_CLOSE)
        + "\n".join(lines)
        + "\n\n## Refusals\n\n"
        + "\n".join(notes)
        + "\n"
    )


def _cell(origins: dict[str, Found], sentences: list[str]) -> str:
    """One for both origins where they agree; refusals are numbered in the order of their first appearance."""
    told = {}
    for origin, one in origins.items():
        if one.words and one.words not in sentences:
            sentences.append(one.words)
        number = f" {sentences.index(one.words) + 1}".translate(RAISED) if one.words else ""
        told[origin] = one.state + number
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{ORIGINS[origin]}: {what}" for origin, what in told.items())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.helpers.architecture_table", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--only", nargs="+", choices=list(zoo.ARCHITECTURES), help="rows to print; nothing is written")
    arguments = parser.parse_args(argv)

    def tell(name, row):
        cells = {h: "/".join(one.state for one in dict.fromkeys(o.values())) for h, o in row.items()}
        print(f"{name}: " + ", ".join(f"{heading} {cell}" for heading, cell in cells.items()), flush=True)
        if arguments.only:
            for heading, origins in row.items():
                for origin, one in origins.items():
                    if one.words:
                        print(f"    {heading}, {ORIGINS[origin]}: {one.state}: {one.words}")

    found = table(arguments.only, tell)
    if lines := wrong(found):
        print("\n".join(lines), file=sys.stderr)
        sys.exit(f"error: {len(lines)} cells are neither exact nor refused; nothing was written")
    if not arguments.only:
        FILE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
