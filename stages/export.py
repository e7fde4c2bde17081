r"""Write the model to deploy: a plain folder, an ONNX file, and a card with what was measured.

    python -m stages.export --results results --models models --recommendation report/recommendation.json \
        --out models/best

Which one that is says the stage recommend; of several seeds it is the first one's model.
"""

import argparse
from pathlib import Path

from prunelab.deploy import recommendation
from prunelab.disk import places, turns
from prunelab.errors import exit_cleanly
from prunelab.report import results
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.export", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--models", type=Path, required=True, help="folder of all models")
    parser.add_argument("--recommendation", type=Path, required=True, help="what the stage recommend wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the delivered model")
    arguments = parser.parse_args(argv)
    settings = params.load()
    study = results.read(settings, arguments.results, arguments.models)  # before the slow imports: it may refuse
    advice = recommendation.read(arguments.recommendation, [variant.id for variant in settings.variants()])
    folders = (arguments.models / row["path"] for row in study.rows)
    places.check_folder(arguments.out, arguments.results, arguments.models, *folders)

    from prunelab.delivery import delivery

    choice = delivery.Choice(recommendation.delivered(advice), advice["why"])
    with turns.computing():
        delivery.deliver(study, choice, arguments.out, settings.export.onnx)
    print(f"{arguments.out}: {choice.variant}, {choice.why}")


if __name__ == "__main__":
    exit_cleanly(main)
