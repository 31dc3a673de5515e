"""Formats libraries' log records and Python's warnings as JSON lines, like the functions' own."""

import logging
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

# Set by Lambda, whose root logger has a handler with a format of its own.
_RUNTIME: Final = "awslambdaric"


class _Lines(logging.Formatter):
    """Powertools' JSON, with the end of the line, which the runtime's handler does not add."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return self._inner.format(record) + "\n"


def log_all_as_json(logger: "Logger") -> None:
    """Have Lambda's handler write other loggers' records as ``logger`` does, from its level on."""
    # The template's LogLevel. Powertools would take Lambda's own level instead, which stays at INFO
    # for the sake of the metrics.
    logging.getLogger(logger.name).setLevel(os.environ.get("POWERTOOLS_LOG_LEVEL", "INFO"))
    for handler in logging.getLogger().handlers:
        if type(handler).__module__.partition(".")[0] == _RUNTIME:
            handler.setFormatter(_Lines(logger.registered_formatter))
            handler.setLevel(logger.log_level)
            logging.captureWarnings(capture=True)
