"""Measure one model on further runtimes (compiled, 2:4 kernels, ONNX), each beside the eager dense model.

    python -m stages.runtimes depth-25 --model models/s1/depth-25 --dense models/s1/dense \\
        --device results/device.json --session results/s1/dense/efficiency.json --out results/s1/depth-25

Writes runtimes.json. A runtime that this machine lacks stands in it with the reason.
"""

import argparse
from pathlib import Path

from prunelab import errors
from prunelab.disk import files, places, turns
from prunelab.efficiency import device
from prunelab.energy import energy
from prunelab.study import naming, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.runtimes", description=__doc__.partition("\n")[0])
    naming.add_variant(parser, "its id, such as depth-25, or dense")
    naming.add_seed(parser, "tag of the seed, such as s2, for @seed in the paths")
    parser.add_argument("--model", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--dense", type=Path, required=True, help="folder of its dense model")
    parser.add_argument("--device", type=Path, required=True, help="fingerprint of this machine")
    parser.add_argument("--session", type=Path, required=True, help="efficiency.json of the dense model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    arguments = naming.parse(parser, argv)
    places.check_shared(arguments.out, arguments.model, arguments.dense)
    settings, machine = params.load(), files.read_json(arguments.device)
    session = files.read_json(arguments.session)
    device.require(settings.efficiency.device)
    with energy.stage_meter(f"runtimes-{arguments.variant}", arguments.energy), turns.measuring():
        from prunelab.efficiency import serving  # after the settings: a misspelt key must not wait for slow imports

        wanted = settings.runtimes
        found = serving.measure(
            arguments.model, arguments.dense, wanted.names, wanted.seconds, settings.efficiency, session, settings.seed
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    files.write_json(arguments.out / "runtimes.json", {"variant": arguments.variant, "device": machine["id"], **found})
    for name, figures in found["runtimes"].items():
        print(f"{arguments.variant} on {name}: {describe(figures)}", flush=True)


def describe(figures: dict) -> str:
    if not figures["available"]:
        return f"not available here: {figures['reason']}"
    ratio, lo, hi = (figures[f"decode_ratio{end}"] for end in ("", "_lo", "_hi"))
    return f"decode {ratio:.3f} of eager dense ({lo:.3f} … {hi:.3f}): {figures['decode_verdict']}"


if __name__ == "__main__":
    errors.exit_cleanly(main)
