"""`python -m prunelab.delivery.export models/magnitude-50 plain/`: a variant as a folder for `from_pretrained`."""

import argparse

from prunelab.disk import places
from prunelab.errors import exit_cleanly
from prunelab.models import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", help="a model's folder, packed or plain")
    parser.add_argument("out", help="the folder to write: a new one, or one that was written here, which is replaced")
    arguments = parser.parse_args()
    places.check_folder(arguments.out, arguments.variant)  # before a model is loaded
    checkpoint.export(arguments.variant, arguments.out)
    print(f"{arguments.out}: AutoModelForCausalLM.from_pretrained({arguments.out!r}) loads it")


if __name__ == "__main__":
    exit_cleanly(main)
