"""The context that Lambda gives a handler."""

from typing import ClassVar


class FakeLambdaContext:
    """Says how much time is left; every look at it takes ``each_look`` milliseconds of it."""

    function_name: ClassVar = "a-function"
    memory_limit_in_mb: ClassVar = 256
    invoked_function_arn: ClassVar = "arn:aws:lambda:eu-west-1:111122223333:function:a-function"
    aws_request_id: ClassVar = "request-1"

    def __init__(self, milliseconds_left: int = 300_000, *, each_look: int = 0) -> None:
        self._left = milliseconds_left
        self._each_look = each_look

    def get_remaining_time_in_millis(self) -> int:
        self._left -= self._each_look
        return self._left
