"""Write the hashes of the local files that the settings name, and what recipes leave open; stages depend on these.

    python -m stages.inputs --out data/inputs

Runs every time. As long as no such file changes, the JSON files come out byte for byte the same and nothing else runs:
sources.json (texts and models, for the stage fetch), probes.json (questions and further texts, for the stage probes),
recipes.json (whose size dense-small gets and how much longer it trains, which other entries of prune.further decide),
timed/<variant>.json (whose times a quantised row takes over, which they decide too), devices.json (what other machines
measured, for the stage recommend).
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.data import inputs
from prunelab.disk import files, places
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.inputs", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    arguments = parser.parse_args(argv)
    places.check_shared(arguments.out)
    settings = params.load()
    found = inputs.of_sources(settings.sources())
    read = inputs.of_texts(settings.further_texts())
    asked = inputs.of_questions(settings.quality.questions.names)
    elsewhere = inputs.of_devices(settings.deploy.devices)
    files.write_json(arguments.out / "sources.json", found)
    files.write_json(arguments.out / "probes.json", {"texts": read, "questions": asked})
    files.write_json(arguments.out / "recipes.json", settings.left_open())
    files.write_json(arguments.out / "devices.json", elsewhere)
    with files.whole_directory(arguments.out / "timed") as partial:
        for variant in settings.variants():
            other = settings.timed_as(variant) if variant.precision else None
            files.write_json(partial / f"{variant.id}.json", {"timed_as": other})
    named = [part for part, known in found.items() if known] + [*read, *asked, *elsewhere]
    print(f"local files: {', '.join(named) or 'none'}")


if __name__ == "__main__":
    errors.exit_cleanly(main)
