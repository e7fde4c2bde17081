"""The task of prices: a picture and a few words go in, a price is written out; judged by its mean absolute error."""

from prunelab.tasks import Headline

HEADLINE = Headline(
    "mae",
    "mean absolute error",
    "{settings.price.currency}",
    ",.2f",
    comparable="An error is comparable only over the same rows of the same data",
)
MODELS = "picture"


def check(settings) -> None:
    from prunelab.tasks.price import preparing

    preparing.check(settings)


def prepare(settings, out) -> None:
    from prunelab.tasks.price import preparing

    preparing.prepare(settings, out)


def start(settings, data, seed):
    from prunelab.tasks.price.seeing import starting

    return starting.start(settings, data, seed)


def examples(settings, processor, data, seed):
    from prunelab.tasks.price.seeing import examples

    return examples.examples(settings, processor, data, seed)


def beside(settings, data, model) -> None:
    from prunelab.tasks.price.seeing import starting

    starting.beside(settings, data, model)


def files(settings, data):
    from prunelab.tasks.price.seeing import starting

    return starting.files(settings, data)


def samples(settings, dense, data, seed):
    from prunelab.tasks.price.seeing import showing

    return showing.samples(settings, dense, data, seed)


def recovery(settings, dense, data, seed):
    from prunelab.tasks.price.seeing import showing

    return showing.lessons(settings, dense, data, seed)


def prompt(settings, dense, tokens, batch):
    from prunelab.tasks.price.seeing import prompting

    return prompting.prompt(settings, dense, tokens, batch)


def reference(settings, dense, data, probes, out) -> None:
    from prunelab.tasks.price.judging import judging

    judging.judge_dense(settings, dense, data, out)


def judge(settings, name, model, reference, probes, out) -> None:
    from prunelab.tasks.price.judging import judging

    judging.judge_variant(settings, name, model, reference, out)


def sections(study, rows) -> list:
    from prunelab.tasks.price.report import sections

    return sections.sections(study, rows)
