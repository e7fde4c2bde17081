"""Whom the server tells of a study that failed; that it does is held in test_worker.py."""

import uuid

import pytest

from flows import notify
from prunelab.errors import InputError


def test_the_address_is_kept_as_a_secret():
    made = notify.block("https://hooks.example/T0/secret")
    assert "secret" not in made.url and "hooks.example" not in repr(made)
    assert made._build_request_args("why", "what")["url"] == "https://hooks.example/T0/secret"


def test_only_studies_that_failed_are_told_and_not_their_parts():
    made = notify.automation(uuid.uuid4())
    assert {name.rpartition(".")[2] for name in made.trigger.expect} == {"Failed", "Crashed", "TimedOut"}
    assert made.trigger.match_related.root["prefect.resource.name"] == "study"


@pytest.mark.parametrize("wrong", ["", "hooks.example/T0/secret", "ftp://hooks.example/secret"])
def test_what_is_no_address_is_told_without_its_secret(monkeypatch, wrong):
    monkeypatch.setenv("PRUNELAB_WEBHOOK", wrong)
    with pytest.raises(InputError, match="PRUNELAB_WEBHOOK: expected the webhook's address") as told:
        notify.main()
    assert "secret" not in str(told.value)
