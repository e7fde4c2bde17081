"""`prunelab publish models/best owner/name`: upload a delivered model to the Hugging Face hub.

Nothing else of this project sends anything anywhere: no stage and no flow calls this, only a person does. The token is
the hub client's own (`hf auth login`). The repository is private unless `--public` is said.
"""

import json
from pathlib import Path

from prunelab.data.sources import hub_silence
from prunelab.delivery.delivery import FACTS
from prunelab.disk import places
from prunelab.disk.files import read_json
from prunelab.errors import InputError


def push(folder, repository: str, public: bool = False) -> str:
    """Upload a folder that the stage export wrote; returns the commit's address.

    Raises InputError for another folder, and where the hub refuses or cannot be reached.
    """
    if not (Path(folder) / FACTS).exists():
        raise InputError(f"{folder}: no {FACTS} in it; only what the stage export wrote is uploaded (dvc repro export)")
    facts = read_json(Path(folder) / FACTS)
    try:
        from huggingface_hub import HfApi, errors  # reads HF_ENDPOINT, which may be no address
    except ValueError as error:
        raise InputError(f"{repository}: the hub's client does not start: {error}; check HF_ENDPOINT") from None
    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"{facts['variant']}: {facts['why']}",
            ignore_patterns=[places.MARK],  # a note to ourselves
        )
    except errors.HfHubHTTPError as error:  # the hub answered
        raise _refused(repository, error, _cure(error.response.status_code)) from None
    except (errors.HTTPError, UnicodeError) as error:
        raise InputError(
            f"{repository}: the hub was not reached ({hub_silence(error)}); check the network and HF_ENDPOINT, if set"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.HFValidationError) as error:  # both say what to do
        raise _refused(repository, error) from None
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{repository}: found no hub's answer ({error}); check HF_ENDPOINT") from None
    except (OSError, ValueError, RuntimeError) as error:  # no token, an unreadable file, the upload itself
        raise _refused(repository, error, "log in with: hf auth login") from error
    return str(done)


def _refused(repository: str, error: Exception, cure: str = "") -> InputError:
    reason = _first_line(error).rstrip(" .")
    return InputError(f"{repository}: the hub did not take it: {reason}{f'; {cure}' if cure else ''}")


def _cure(status: int) -> str:
    if status in (401, 403, 404):  # 404: what a token may not see is not there
        return "log in with: hf auth login, as somebody who may write there"
    return "try again later" if status == 429 or status >= 500 else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
