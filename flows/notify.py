"""Have the Prefect server tell a webhook of every study that fails or crashes.

    PRUNELAB_WEBHOOK=https://… python -m flows.notify        # once; again: with another address

It makes a block of Prefect's (a Custom Webhook, which holds the address as a secret) and an automation that posts
`{"text": …}` to it, as chat programs take it. Both are Prefect's own and can be changed in its interface; a file
such as automations.yaml cannot hold them, because an automation names a block by an id that each server makes anew.
"""

import os
from datetime import timedelta

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.types import SecretDict

from prunelab import errors

VARIABLE = "PRUNELAB_WEBHOOK"
BLOCK = "prunelab-webhook"
NAME = "a study that failed is told"
SUBJECT = "study {{ flow_run.parameters.study or 'of params.yaml' }} ({{ flow_run.name }}): {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"
WHEN = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}


def block(address: str) -> CustomWebhookNotificationBlock:
    return CustomWebhookNotificationBlock(
        name=BLOCK,
        url="{{address}}",  # often all that protects a chat's room
        json_data={"text": "{{subject}}\n{{body}}"},
        secrets=SecretDict({"address": address}),
    )


def automation(identifier) -> Automation:
    """identifier: of the saved block."""
    trigger = EventTrigger(
        posture=Posture.Reactive,
        expect=WHEN,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": "study"},  # its parts are told by it
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(0),
    )
    action = SendNotification(block_document_id=identifier, subject=SUBJECT, body=BODY)
    return Automation(name=NAME, description=__doc__.partition("\n")[0], trigger=trigger, actions=[action])


def main() -> None:
    address = os.environ.get(VARIABLE, "").strip()
    if not address.startswith(("http://", "https://")):
        found = "something else" if address else "nothing"  # which may hold a secret
        raise errors.InputError(f"{VARIABLE}: expected the webhook's address, https://…; found {found}")
    identifier = block(address).save(BLOCK, overwrite=True)
    with get_client(sync_client=True) as client:
        for earlier in client.read_automations_by_name(NAME):
            client.delete_automation(earlier.id)
    automation(identifier).create()
    print(f"{NAME}: the server posts it to the block {BLOCK}")


if __name__ == "__main__":
    errors.exit_cleanly(main)
