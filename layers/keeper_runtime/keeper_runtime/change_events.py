"""The change events: the results of refreshes on an EventBridge bus, for programs that act on them.

A rule on ``Token Refreshed`` can restart a service that reads the secret only when it starts. No
event holds a token or a part of one.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from .alerts import SOURCE

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

REFRESHED: Final = "Token Refreshed"
REFRESH_FAILED: Final = "Token Refresh Failed"

# EventBridge's limit of events in one call.
_BATCH: Final = 10


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """The result of a refresh, for one or more secrets.

    ``detail`` is JSON: a run's result for ``Token Refreshed``, the alert's document for ``Token
    Refresh Failed``.
    """

    detail_type: str
    detail: Mapping[str, object]
    secret_ids: tuple[str, ...]


def announce(changes: Iterable[ChangeEvent], *, client: "EventBridgeClient", bus_arn: str) -> None:
    """Put an event for each change on the bus. Raises boto3's exceptions."""
    for batch in batched(changes, _BATCH, strict=False):
        answer = client.put_events(
            Entries=[
                {
                    "EventBusName": bus_arn,
                    "Source": SOURCE,
                    "DetailType": change.detail_type,
                    "Detail": json.dumps(change.detail),
                    "Resources": list(change.secret_ids),
                }
                for change in batch
            ]
        )
        if answer["FailedEntryCount"]:
            # The call succeeds even if an event was refused.
            refused = next(entry for entry in answer["Entries"] if "ErrorCode" in entry)
            raise ClientError(
                {"Error": {"Code": refused["ErrorCode"], "Message": refused["ErrorMessage"]}},
                "PutEvents",
            )
