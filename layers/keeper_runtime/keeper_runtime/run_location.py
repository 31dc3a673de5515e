"""Where a run happens, and how much time it has left, from Lambda's context."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, slots=True)
class RunLocation:
    """Where a run happened, as commands have to name it.

    ``function`` is the name of the Lambda function that starts such runs; ``of_fleet`` says that it
    does so for many secrets, so that a command has to name the one that is meant.
    ``session_secret_id`` is the session secret beside the token, empty where there is none.
    """

    stack: str
    function: str
    region: str
    of_fleet: bool = False
    session_secret_id: str = ""


def location_of(
    context: "LambdaContext",
    *,
    stack: str,
    function: str | None = None,
    of_fleet: bool = False,
    session_secret_id: str = "",
) -> RunLocation:
    """Return where a run happens; ``function`` starts such runs, where that is another one."""
    return RunLocation(
        session_secret_id=session_secret_id,
        stack=stack,
        function=context.function_name if function is None else function,
        region=context.invoked_function_arn.split(":")[3],
        of_fleet=of_fleet,
    )


def time_left_of(context: "LambdaContext") -> Callable[[], timedelta]:
    """Return what says how much time is left until the run is killed."""
    return lambda: timedelta(milliseconds=context.get_remaining_time_in_millis())
