"""The state table: one DynamoDB item per secret, with the lease and the runs' memory."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from qwen_token.errors import ConfigError, StoreError
from qwen_token.ledger import LONGEST_LEASE, Leased, Ledger, State
from qwen_token.run_memory import RunMemory
from qwen_token.secret_store import translated

from .settings import STATE_TABLE

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from .clients import Clients

# An item expires this long after its last use. No limit in the memory is longer.
_FORGET_AFTER: Final = timedelta(days=90)


class StateTable:
    """The item of one secret. Every method raises StoreError if DynamoDB refuses or fails.

    ``client`` is boto3's for DynamoDB, ``clock`` returns the aware time.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        secret_id: str,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._table = table
        self._key = {"secret_id": {"S": secret_id}}
        self._clock = clock

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        """Take the lease, or return None if another run has it. An expired one is taken over.

        So is one that lasts longer than any run: somebody else wrote it, or a wrong clock, and it
        would keep all runs out until then.
        """
        before: Mapping[str, Any]
        with translated("take the lease", by="DynamoDB"):
            try:
                before = self._client.update_item(
                    TableName=self._table,
                    Key=self._key,
                    # Removes the fleet's mark: a job that has the lease no longer waits.
                    UpdateExpression=(
                        "SET lease_owner = :owner, lease_until = :until "
                        "REMOVE queued_until, queued_for"
                    ),
                    # The lease is our own: boto3 may have repeated a call that was carried out.
                    ConditionExpression=(
                        "attribute_not_exists(lease_until) OR lease_until <= :now "
                        "OR lease_until > :beyond OR lease_owner = :owner"
                    ),
                    ExpressionAttributeValues={
                        ":owner": {"S": owner},
                        ":until": number(until),
                        ":now": number(now),
                        ":beyond": number(now + LONGEST_LEASE),
                    },
                    ReturnValues="ALL_OLD",
                ).get("Attributes", {})
            except self._client.exceptions.ConditionalCheckFailedException:
                return None
        try:
            # If the lease was our own already, assume that it was taken over.
            return Leased(_memory(before), taken_over="lease_until" in before)
        except StoreError:
            # The next run must fail for the same reason, not wait for this lease.
            self._give_back(owner)
            raise

    def read(self) -> RunMemory:
        """Return the memory, without taking the lease."""
        with translated("read what the runs remember", by="DynamoDB"):
            answer = self._client.get_item(
                TableName=self._table, Key=self._key, ConsistentRead=True
            )
        return _memory(answer.get("Item", {}))

    def write(self, owner: str, memory: RunMemory) -> None:
        """Write the memory, and keep the lease. Raises StoreError if the lease was lost, too."""
        values = self._values(owner, memory)
        with translated("write what the run did", by="DynamoDB"):
            self._update("SET memory = :memory, expires_at = :forget", values)

    def release(self, owner: str, memory: RunMemory) -> None:
        """Write the memory and release the lease. Does nothing if the lease was lost."""
        expression = "SET memory = :memory, expires_at = :forget REMOVE lease_owner, lease_until"
        values = self._values(owner, memory)
        with translated("give the lease back", by="DynamoDB"):
            try:
                self._update(expression, values)
            except self._client.exceptions.ConditionalCheckFailedException:
                # Another run has the lease by now, and its memory is newer. (Or boto3 repeated a
                # call that was carried out.)
                return

    def _values(self, owner: str, memory: RunMemory) -> dict[str, Any]:
        return {
            ":owner": {"S": owner},
            ":memory": {"S": memory.to_json()},
            ":forget": number(self._clock() + _FORGET_AFTER),
        }

    def _update(self, expression: str, values: Mapping[str, Any]) -> None:
        self._client.update_item(
            TableName=self._table,
            Key=self._key,
            UpdateExpression=expression,
            ConditionExpression="lease_owner = :owner",
            ExpressionAttributeValues=values,
        )

    def _give_back(self, owner: str) -> None:
        """Release the lease, and leave the memory as it is."""
        with translated("give the lease back", by="DynamoDB"):
            self._client.update_item(
                TableName=self._table,
                Key=self._key,
                UpdateExpression="REMOVE lease_owner, lease_until",
                ConditionExpression="lease_owner = :owner",
                ExpressionAttributeValues={":owner": {"S": owner}},
            )


def ledger_of(clients: "Clients", time_left: Callable[[], timedelta], secret_id: str) -> Ledger:
    """Return the ledger of a secret, or of whatever else has an item of its own.

    An environment that names no table, and an empty ``secret_id``, are reported by what this
    process remembers.
    """
    table = clients.environ.get(STATE_TABLE, "").strip()
    in_process = clients.in_process(secret_id)

    def state() -> State:
        if not table or not secret_id:
            return in_process
        try:
            with translated("be reached", by="DynamoDB"):
                client = clients.dynamodb()
        except ConfigError as error:
            # This must not hide the failure that is to be reported.
            raise StoreError(f"DynamoDB could not be reached: {error}") from error
        return StateTable(client, table, secret_id, clock=clients.clock)

    return Ledger(
        state,
        clock=clients.clock,
        time_left=time_left,
        in_process=in_process,
        wait=clients.wait,
    )


def update_if(  # noqa: PLR0913 - an update's parts, by name
    client: "DynamoDBClient",
    table: str,
    key: str,
    *,
    update: str,
    values: Mapping[str, Any],
    step: str,
    condition: str | None = None,
) -> bool:
    """Update the item ``key`` where ``condition`` holds, if there is one; return whether it did.

    Raises:
        StoreError: DynamoDB refused or failed.
    """
    with translated(step, by="DynamoDB"):
        try:
            client.update_item(
                TableName=table,
                Key={"secret_id": {"S": key}},
                UpdateExpression=update,
                **({} if condition is None else {"ConditionExpression": condition}),  # type: ignore[arg-type]
                **({"ExpressionAttributeValues": values} if values else {}),  # type: ignore[arg-type]
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
    return True


def get_item(client: "DynamoDBClient", table: str, key: str, *, step: str) -> Mapping[str, Any]:
    """Return the item ``key``, or an empty one.

    Raises:
        StoreError: DynamoDB refused or failed.
    """
    with translated(step, by="DynamoDB"):
        answer = client.get_item(
            TableName=table, Key={"secret_id": {"S": key}}, ConsistentRead=True
        )
    return answer.get("Item", {})


def number(at: datetime) -> Any:
    """Return an instant as an attribute of an item."""
    return {"N": str(int(at.timestamp()))}


def _memory(item: Mapping[str, Any]) -> RunMemory:
    text = item.get("memory", {}).get("S")
    if text is None:
        return RunMemory()
    try:
        return RunMemory.from_json(text)
    except ValueError:
        raise StoreError(
            "the state table's item of this secret is not one that this release wrote: delete the "
            "item (aws dynamodb delete-item), and the next run begins a new one"
        ) from None
