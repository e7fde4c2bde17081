"""`python -m prunelab.hub models/best owner/name`: upload a delivered model to the Hugging Face hub.

Nothing else of this project sends anything anywhere: no stage and no flow calls this, only a person does. The token is
the hub client's own (`hf auth login`). The repository is private unless `--public` is said.
"""

import argparse
from pathlib import Path

from prunelab.delivery import FACTS
from prunelab.errors import InputError, exit_cleanly
from prunelab.files import read_json


def push(folder, repository: str, public: bool = False) -> str:
    """Upload a folder that the stage export wrote; returns the commit's address.

    Raises InputError for another folder, and where the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if not (Path(folder) / FACTS).exists():
        raise InputError(f"{folder}: no {FACTS} in it; only what the stage export wrote is uploaded (dvc repro export)")
    facts = read_json(Path(folder) / FACTS)
    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"{facts['variant']}: {facts['why']}"
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{repository}: the hub did not take it: {reason}; log in with: hf auth login") from error
    return str(done)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m prunelab.hub", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder that the stage export wrote")
    parser.add_argument("repository", help="owner/name on the hub; made if it does not exist")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    arguments = parser.parse_args(argv)
    print(push(arguments.folder, arguments.repository, arguments.public))


if __name__ == "__main__":
    exit_cleanly(main)
