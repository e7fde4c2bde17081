"""Uploading: whatever the hub, the way to it or the token says, is one line with what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prunelab.delivery import hub
from prunelab.errors import InputError
from tests.helpers import loopback, workspace


@pytest.fixture
def best(tmp_path) -> Path:
    (tmp_path / "delivery.json").write_text(json.dumps({"variant": "v", "why": "w"}))
    return tmp_path


def push(best: Path, endpoint: str, token: str = "hf_x") -> str:
    """The one line that the command ends with; the client reads its variables when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "prunelab", "publish", str(best), "owner/name"],
        cwd=workspace.ROOT, capture_output=True,
        env=workspace.environment() | {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HOME": str(best / "hf")},
    )  # fmt: skip
    told = done.stderr.decode("utf-8", errors="replace").splitlines()
    assert done.returncode == 1 and "Traceback" not in "".join(told) and "hf_x" not in "".join(told), told
    assert told[-1].startswith("error: owner/name: ")
    return told[-1]


def test_a_hub_that_is_not_reached_is_told_in_one_line(best):
    line = push(best, "http://127.0.0.1:9")
    assert "the hub was not reached ([Errno 111] Connection refused); check the network and HF_ENDPOINT" in line


def test_an_address_that_is_none_is_told(best):
    assert "missing an 'http://' or 'https://' protocol" in push(best, "localhost:9")


def test_an_address_that_the_client_itself_cannot_read_is_told(best):
    assert "client does not start: Invalid IPv6 URL; check HF_ENDPOINT" in push(best, "http://[bad")


def test_a_token_that_cannot_be_sent_is_told_without_showing_it(best):
    assert "the token has characters that cannot be sent: hf auth login" in push(best, "http://127.0.0.1:9", "hf_xé")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"<html>", "401 Unauthorized"),
        (403, b"{}", "log in with: hf auth login, as somebody who may write there"),
        (500, b"<html>", "try again later"),
        (200, b"<html>a portal</html>", "found no hub's answer"),
        (200, b"{}", "found no hub's answer ('url'); check HF_ENDPOINT"),
    ],
)
def test_a_hub_that_refuses_or_is_none_is_told_in_one_line(best, monkeypatch, status, body, told):
    import huggingface_hub

    with loopback.serve(lambda path, attempt: (status, {}, body)) as (address, _):
        client = huggingface_hub.HfApi(endpoint=address, token="hf_x")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
        with pytest.raises(InputError, match="^owner/name: ") as raised:
            hub.push(best, "owner/name")
    assert told in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [TimeoutError("timed out"), RuntimeError("the upload broke off"), OSError()])
def test_an_upload_that_breaks_off_is_told_in_one_line(best, monkeypatch, error):
    import huggingface_hub

    class Hub:
        def create_repo(self, *_, **__):
            pass

        def upload_folder(self, *_, **__):
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(InputError, match=f"the hub did not take it: {str(error) or 'OSError'}; log in with"):
        hub.push(best, "owner/name")
