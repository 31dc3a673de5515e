"""The change events: what became of the token, on an EventBridge bus, for programs that act on it.

A service that reads the secret only when it starts can be started anew by a rule on ``Token
Refreshed``. No event holds a token, or a part of one.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from .alerts import SOURCE

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

REFRESHED: Final = "Token Refreshed"
REFRESH_FAILED: Final = "Token Refresh Failed"


def announce(
    detail_type: str,
    detail: Mapping[str, object],
    *,
    secret_id: str | None,
    client: "EventBridgeClient",
    bus_arn: str,
) -> None:
    """Put one event about the secret on the bus. Raises whatever boto3 raises.

    ``detail`` is JSON: a run's result for ``Token Refreshed``, the alert's document for ``Token
    Refresh Failed``.
    """
    answer = client.put_events(
        Entries=[
            {
                "EventBusName": bus_arn,
                "Source": SOURCE,
                "DetailType": detail_type,
                "Detail": json.dumps(detail),
                "Resources": [] if secret_id is None else [secret_id],
            }
        ]
    )
    if answer["FailedEntryCount"]:
        # The call as a whole succeeds even where its one event was refused.
        [refused] = answer["Entries"]
        raise ClientError(
            {"Error": {"Code": refused["ErrorCode"], "Message": refused["ErrorMessage"]}},
            "PutEvents",
        )
