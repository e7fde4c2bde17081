"""Write the fingerprint of this machine; the measuring stages depend on it, the others do not.

    python -m stages.device --out results/device.json

Runs every time. On the same machine the file comes out byte for byte the same, so nothing is measured again;
on another machine only the measuring stages run again.
"""

import argparse

from prunelab import device, errors, files


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.device", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    machine = device.fingerprint()
    files.write_json(arguments.out, machine)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    print(f"device {machine['id']}: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {gpus}")


if __name__ == "__main__":
    errors.exit_cleanly(main)
