"""Bring what models are asked beside the study's own text: further texts and files of questions.

    python -m stages.probes --out data/probes

Reads `quality.texts`, their sources in `fetch.texts`, and `quality.questions.names`. Writes, all or nothing, what
prunelab/data/probes.py describes; of a study that asks nothing more an empty manifest.
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.data import probes, sources
from prunelab.disk import files, places
from prunelab.energy import energy
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.probes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced as a whole")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    arguments = parser.parse_args(argv)
    settings = params.load()
    texts, names = settings.further_texts(), settings.quality.questions.names
    local = [Path(source.name).expanduser() for source in texts.values() if source.kind == "path"]
    for source in texts.values():
        sources.require_apart(source, arguments.out)
    places.check_folder(arguments.out, *local)
    if arguments.energy:
        places.check_json(arguments.energy, "meter")
    with energy.stage_meter("probes", arguments.energy), files.whole_directory(arguments.out, *local) as out:
        manifest = probes.prepare(texts, names, out)
    for name, entry in manifest["texts"].items():
        print(f"{name}: {entry['source']['kind']} {entry['source']['name']}, {entry['text']['bytes']:,} bytes")
    for name, entry in manifest["questions"].items():
        print(f"{name}: {entry['bytes']:,} bytes")
    if not any(manifest.values()):
        print("nothing is asked beside the study's own text")


if __name__ == "__main__":
    errors.exit_cleanly(main)
