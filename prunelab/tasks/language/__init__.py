"""The task of a language model: predict the next token of texts; judged by its loss on those it never saw."""

from prunelab.tasks import Headline, Paper

HEADLINE = Headline(
    "loss",
    "loss",
    "nats a token",
    ".4f",
    items="windows of text",
    comparable="A loss is comparable only over the same text, windows and context",
    paper=Paper(moderate=60, sharp_past=70),
)
MODELS = "causal"


def check(settings) -> None:
    from prunelab.tasks.language import preparing

    preparing.check(settings)


def prepare(settings, out) -> None:
    from prunelab.tasks.language import preparing

    preparing.prepare(settings, out)


def start(settings, data, seed):
    from prunelab.tasks.language import starting

    return starting.start(settings, data, seed)


def examples(settings, processor, data, seed):
    from prunelab.tasks.language import windows

    return windows.examples(settings, processor, data, seed)


def beside(settings, data, model) -> None:
    """Nothing: a language model says all of itself."""


def files(settings, data):
    from prunelab.tasks.language import starting

    return starting.files(settings, data)


def samples(settings, dense, data, seed):
    from prunelab.tasks.language import crops

    return crops.samples(settings, dense, data, seed)


def recovery(settings, dense, data, seed):
    from prunelab.tasks.language import lessons

    return lessons.lessons(settings, dense, data, seed)


def reference(settings, dense, data, probes, out) -> None:
    from prunelab.tasks.language import judging

    judging.reference(settings, dense, data, probes, out)


def judge(settings, name, model, reference, probes, out) -> None:
    from prunelab.tasks.language import judging

    judging.judge(settings, name, model, reference, probes, out)


def prompt(settings, dense, tokens, batch):
    from prunelab.tasks.language import prompting

    return prompting.prompt(settings, dense, tokens, batch)


def sections(study, rows) -> list:
    from prunelab.tasks.language import answers

    found = [answers.section(study, rows)]
    return [one for one in found if one is not None]
