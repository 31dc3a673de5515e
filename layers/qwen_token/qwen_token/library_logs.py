"""Removes tokens and logins from what HTTP libraries and the AWS SDK log.

urllib3 quotes headers that it cannot parse in a warning; httpcore and botocore log headers and
bodies at DEBUG. The loggers belong to the program, so levels and handlers are left alone, and so
is every record that cannot hold a secret. From the others, what could be one is removed.
"""

import logging
import re
import traceback
from collections.abc import Sequence
from typing import Final

_HIDDEN: Final = "[redacted]"

# A filter sees its own logger's records only, not those of the loggers below it.
_LOGGERS: Final = (
    *("urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.response"),
    *("urllib3.util.retry", "urllib3.http2.connection"),
    *("httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpx"),
    *("hpack.hpack", "hpack.table"),
    *("botocore.auth", "botocore.awsrequest", "botocore.client", "botocore.endpoint"),
    *("botocore.hooks", "botocore.httpsession", "botocore.parsers", "botocore.retryhandler"),
    *("botocore.retries.standard", "botocore.retries.adaptive", "botocore.retries.special"),
)

_QUOTED: Final = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_SECRETS: Final[Sequence[re.Pattern[str]]] = (
    # A JWT, or the beginning of one.
    re.compile(r"()eyJ[\w-]{5,}(?:\.[\w-]*){0,2}"),
    re.compile(r"(\bBearer\s+)[^\s'\"]+", re.IGNORECASE),
    # A header whose value is always a secret: in a pair, in a mapping, or on a line.
    re.compile(
        rf"""(\b(?:set-cookie|cookie)['"]?\s*[:,]\s*b?)(?:{_QUOTED}|[^\r\n'"][^\r\n]*)""",
        re.IGNORECASE,
    ),
    # The members with Secrets Manager's values, and everything after them.
    re.compile(r"(\bSecret(?:String|Binary)\b).*", re.DOTALL),
    # Bytes that a parser refused may be any part of an answer.
    re.compile(r"(\bunparsed data: ).*", re.DOTALL),
    re.compile(r"(\b(?:BadStatusLine|InvalidChunkLength|LineTooLong)\b).*", re.DOTALL),
    re.compile(r"(\bbytearray\(b).*", re.DOTALL),
)


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Remove from a record what could be a secret; let every record through."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            # The handler reports that.
            return True
        if (redacted := _redacted(message)) != message:
            record.msg, record.args = redacted, ()
        if record.exc_info and (error := record.exc_info[1]) is not None:
            shown = "".join(traceback.format_exception(error))
            if (redacted := _redacted(shown)) != shown:
                # The exception holds the same text, and a handler may look at it.
                record.exc_info, record.exc_text = None, redacted.rstrip()
        return True


def _redacted(text: str) -> str:
    for secret in _SECRETS:
        text = secret.sub(rf"\1{_HIDDEN}", text)
    return text


_redaction: Final = _Redaction()


def guard_library_logs() -> None:
    """Redact the libraries' records from now on."""
    for name in _LOGGERS:
        # A second time changes nothing.
        logging.getLogger(name).addFilter(_redaction)
