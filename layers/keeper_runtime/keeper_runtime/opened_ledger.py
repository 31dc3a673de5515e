"""The ledger of a run: created when it is first needed, and closed at the run's end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from qwen_token.errors import QwenTokenError

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

    from qwen_token.ledger import Ledger

    from .clients import Clients


@contextmanager
def opened_ledger(
    clients: "Clients", time_left: Callable[[], timedelta], logger: "Logger", secret_id: str
) -> Iterator[Callable[[], "Ledger"]]:
    """Yield a function that returns the run's ledger; at the end, release its lease."""
    made: list[Ledger] = []

    def ledger() -> "Ledger":
        if not made:
            from .state_table import ledger_of  # noqa: PLC0415 - not to be paid for by every run

            made.append(ledger_of(clients, time_left, secret_id))
        return made[0]

    try:
        yield ledger
    finally:
        for each in made:
            give_back(each, logger)


def give_back(ledger: "Ledger", logger: "Logger") -> None:
    """Release a ledger's lease, if it has one.

    A failure is only logged: the lease expires by itself, and alerts may be published again.
    """
    try:
        ledger.close()
    except QwenTokenError as error:
        logger.error(  # noqa: TRY400 - its cause may quote what was to be written
            "the lease could not be given back", reason=error.reason, detail=str(error)
        )
