"""Write the fingerprint of this machine; the measuring stages depend on it, the others do not.

    python -m stages.device --out results/device.json

Where the study measures on a machine with a name (efficiency.device), and this is another, that machine's published
fingerprint is taken: then what was measured there counts, and nothing is measured here.
Runs every time. On the same machine the file comes out byte for byte the same, so nothing is measured again;
on another machine only the measuring stages run again. DVC keeps the file while this runs (`persist`), so that nothing
is lost where it stops: at a Python that is not the project's.
"""

import argparse
from pathlib import Path

from prunelab import errors, interpreter
from prunelab.disk import files, places
from prunelab.efficiency import device
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.device", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    places.check_json(arguments.out, "id")
    wanted = params.load().efficiency.device
    if device.is_here(wanted):
        machine = device.fingerprint()
        if Path(arguments.out).exists():
            check_runtime(arguments.out, files.read_json(arguments.out), machine)
    else:
        machine = published(wanted)
    files.write_json(arguments.out, machine)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    print(f"device {machine['id']}: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {gpus}")


def published(name: str) -> dict:
    """The fingerprint of the machine `name`. Raises InputError where it was not brought here."""
    path = device.published(name)
    if not path.exists():
        raise errors.InputError(
            f"efficiency.device: the study is measured on {name!r}, whose fingerprint is not here; run it with "
            f"fan_out, which brings it (docs/workers.md), or set efficiency.device: {device.HERE}"
        )
    return files.read_json(path)


def check_runtime(path, before: dict, machine: dict) -> None:
    """Raises InputError where nothing but another Python than the project's would have all be measured again.

    Another Python of the project's own environment is an update of it, and without such an environment any is right.
    """
    other = {key for key in {*before, *machine} - {"id"} if before.get(key) != machine.get(key)}
    if other and other <= set(device.RUNTIME) and interpreter.has_project() and not interpreter.is_the_projects():
        raise errors.InputError(
            f"{path}: {interpreter.this()} is not the one of the measurements ({', '.join(sorted(other))} differ), "
            f"which would all be made again; {interpreter.what_to_do()}; if this Python is meant, delete {path}"
        )


if __name__ == "__main__":
    errors.exit_cleanly(main)
