"""The state table: one DynamoDB item per secret, with the lease and the runs' memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

# A secret's item expires this long after its last use. No limit in the memory is longer.
FORGET_AFTER: Final = timedelta(days=90)
# The condition that this run still has the lease.
_OURS: Final = "lease_owner = :owner"


@dataclass(frozen=True, slots=True)
class Items:
    """All items of the table. Every method raises StoreError if DynamoDB refuses or fails.

    ``client`` returns boto3's for DynamoDB, ``clock`` the aware time.
    """

    client: Callable[[], "DynamoDBClient"]
    table: str
    clock: Callable[[], datetime]

    def get(self, key: str, *, step: str) -> Mapping[str, Any]:
        """Return the item ``key``, or an empty one."""
        client = self.client()
        with translated(step, by="DynamoDB"):
            answer = client.get_item(TableName=self.table, Key=_key(key), ConsistentRead=True)
        return answer.get("Item", {})

    def update_if(
        self,
        key: str,
        *,
        update: str,
        values: Mapping[str, Any],
        step: str,
        condition: str | None = None,
    ) -> bool:
        """Update the item ``key`` if ``condition`` holds (None: always); return whether it did."""
        client = self.client()
        with translated(step, by="DynamoDB"):
            try:
                client.update_item(
                    TableName=self.table,
                    Key=_key(key),
                    UpdateExpression=update,
                    **({} if condition is None else {"ConditionExpression": condition}),  # type: ignore[arg-type]
                    **({"ExpressionAttributeValues": values} if values else {}),  # type: ignore[arg-type]
                )
            except client.exceptions.ConditionalCheckFailedException:
                return False
        return True


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
        self._items = Items(lambda: client, table, clock)
        self._secret_id = secret_id

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        """Take the lease, or return None if another run has it. An expired one is taken over.

        So is one that lasts longer than any run: somebody else wrote it, or a wrong clock, and it
        would keep all runs out until then.
        """
        before: Mapping[str, Any]
        with translated("take the lease", by="DynamoDB"):
            try:
                before = self._client.update_item(
                    TableName=self._items.table,
                    Key=_key(self._secret_id),
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
        return _memory(self._items.get(self._secret_id, step="read what the runs remember"))

    def write(self, owner: str, memory: RunMemory) -> None:
        """Write the memory, and keep the lease. Raises StoreError if the lease was lost, too."""
        values = self._values(owner, memory)
        with translated("write what the run did", by="DynamoDB"):
            self._update("SET memory = :memory, expires_at = :forget", values)

    def release(self, owner: str, memory: RunMemory) -> None:
        """Write the memory and release the lease. Does nothing if the lease was lost."""
        # If it was lost, another run's memory is newer. (Or boto3 repeated a call that was carried
        # out.)
        self._items.update_if(
            self._secret_id,
            update="SET memory = :memory, expires_at = :forget REMOVE lease_owner, lease_until",
            condition=_OURS,
            values=self._values(owner, memory),
            step="give the lease back",
        )

    def _values(self, owner: str, memory: RunMemory) -> dict[str, Any]:
        return {
            ":owner": {"S": owner},
            ":memory": {"S": memory.to_json()},
            ":forget": number(self._items.clock() + FORGET_AFTER),
        }

    def _update(self, expression: str, values: Mapping[str, Any]) -> None:
        self._client.update_item(
            TableName=self._items.table,
            Key=_key(self._secret_id),
            UpdateExpression=expression,
            ConditionExpression=_OURS,
            ExpressionAttributeValues=values,
        )

    def _give_back(self, owner: str) -> None:
        """Release the lease, and leave the memory as it is."""
        with translated("give the lease back", by="DynamoDB"):
            self._update("REMOVE lease_owner, lease_until", {":owner": {"S": owner}})


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


def _key(key: str) -> Any:
    return {"secret_id": {"S": key}}


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
