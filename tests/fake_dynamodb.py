"""DynamoDB in memory, behind the calls of boto3's client that the state table needs.

Expressions are evaluated, conditions are held and values are compared by their types, as AWS
documents it. What an expression may say is no more than what is needed here: anything else fails.
"""

# ruff: noqa: N803 - the arguments are named as boto3 names them

import copy
import operator as operators
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Final, Literal

from botocore.exceptions import ClientError

Item = dict[str, Any]

_NOT_EXISTS: Final = re.compile(r"attribute_not_exists\((\w+)\)")
_EXISTS: Final = re.compile(r"attribute_exists\((\w+)\)")
_COMPARISON: Final = re.compile(r"(\w+) (=|<>|<=|>) (:\w+)")
_OPERATORS: Final = {
    "=": operators.eq,
    "<>": operators.ne,
    "<=": operators.le,
    ">": operators.gt,
}
_UPDATE: Final = re.compile(r"(?:SET (?P<set>.+?))?(?:(?:^| )REMOVE (?P<remove>.+))?")
_ASSIGNMENT: Final = re.compile(r"(\w+) = (:\w+)")


class _ConditionalCheckFailedError(ClientError):
    """The item is not as the condition has it."""


class _Exceptions:
    """The errors by the names that boto3's clients give them."""

    ConditionalCheckFailedException: ClassVar = _ConditionalCheckFailedError


@dataclass(frozen=True, slots=True)
class DynamoDBCall:
    """A call that arrived, whatever became of it."""

    operation: str
    request: Mapping[str, Any] = field(repr=False)


class FakeDynamoDB:
    """The tables of one region; each is there as soon as it is named.

    ``fails_with`` makes every call fail. ``before`` is called with each call before it is carried
    out: it may raise, wait, or write as another client does meanwhile.
    """

    exceptions: ClassVar = _Exceptions

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self.recorded: list[DynamoDBCall] = []
        self.fails_with: Exception | None = None
        self.before: Callable[[DynamoDBCall], None] = lambda _call: None
        self._lock = threading.Lock()

    @property
    def calls(self) -> list[str]:
        """The operations of all calls, in their order."""
        return [call.operation for call in self.recorded]

    def item(self, table: str, **key: str) -> Item | None:
        """Return an item as it is stored. It is no call."""
        [(name, value)] = key.items()
        return self.items.get((table, repr({name: {"S": value}})))

    def get_item(
        self, *, TableName: str, Key: Mapping[str, Any], ConsistentRead: bool = False
    ) -> dict[str, Any]:
        assert ConsistentRead, "the answer could be one of before the last write"
        self._arrive("GetItem", {"TableName": TableName, "Key": Key})
        with self._lock:
            item = self.items.get((TableName, repr(Key)))
            return {} if item is None else {"Item": copy.deepcopy(item)}

    def update_item(  # noqa: PLR0913 - boto3's arguments
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        UpdateExpression: str,
        ConditionExpression: str = "",
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValues: Literal["NONE", "ALL_OLD"] = "NONE",
        ReturnValuesOnConditionCheckFailure: Literal["NONE", "ALL_OLD"] = "NONE",
    ) -> dict[str, Any]:
        expressions = {"UpdateExpression": UpdateExpression, "Condition": ConditionExpression}
        self._arrive("UpdateItem", {"TableName": TableName, "Key": Key, **expressions})
        where, values = (TableName, repr(Key)), ExpressionAttributeValues or {}
        assert ExpressionAttributeValues != {}, "AWS refuses an empty object"
        with self._lock:
            before = self.items.get(where)
            if not _holds(ConditionExpression, before or {}, values):
                shown = before if ReturnValuesOnConditionCheckFailure == "ALL_OLD" else None
                raise _check_failed(shown)
            self.items[where] = _updated(before or dict(Key), UpdateExpression, values)
            if ReturnValues == "NONE" or before is None:
                return {}
            return {"Attributes": copy.deepcopy(before)}

    def _arrive(self, operation: str, request: Mapping[str, Any]) -> None:
        call = DynamoDBCall(operation, request)
        self.recorded.append(call)
        self.before(call)
        if self.fails_with is not None:
            raise self.fails_with


def _holds(condition: str, item: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return not condition or any(_is_true(term, item, values) for term in condition.split(" OR "))


def _is_true(term: str, item: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    if absent := _NOT_EXISTS.fullmatch(term):
        return absent[1] not in item
    if present := _EXISTS.fullmatch(term):
        return present[1] in item
    comparison = _COMPARISON.fullmatch(term)
    assert comparison is not None, f"not needed so far: {term}"
    name, operator, value = comparison.groups()
    if name not in item:
        return False
    (kind, there), (other_kind, given) = (
        next(iter(each.items())) for each in (item[name], values[value])
    )
    if kind != other_kind:
        return False
    if kind == "N":
        there, given = Decimal(there), Decimal(given)
    return bool(_OPERATORS[operator](there, given))


def _updated(item: Mapping[str, Any], expression: str, values: Mapping[str, Any]) -> Item:
    update = _UPDATE.fullmatch(expression)
    assert update is not None, f"not needed so far: {expression}"
    after = dict(item)
    for each in update["set"].split(", ") if update["set"] else ():
        assignment = _ASSIGNMENT.fullmatch(each)
        assert assignment is not None, f"not needed so far: {each}"
        after[assignment[1]] = copy.deepcopy(values[assignment[2]])
    for name in (update["remove"] or "").split(", "):
        after.pop(name, None)
    return after


def _check_failed(item: Item | None) -> ClientError:
    failed: Any = {
        "Error": {"Code": "ConditionalCheckFailedException", "Message": "by the fake"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
        # AWS shows the item only to who asks for it.
        **({} if item is None else {"Item": copy.deepcopy(item)}),
    }
    return _ConditionalCheckFailedError(failed, "UpdateItem")
