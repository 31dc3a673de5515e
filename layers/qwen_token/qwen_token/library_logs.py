"""What HTTP libraries and the AWS SDK log, without what could be a token or a login of ours.

They log what was sent and received: urllib3 quotes headers that it cannot parse in a warning,
httpcore and botocore log headers and bodies at DEBUG. Their loggers are the program's, so levels
and handlers are left alone, and so are all records but those that could hold a secret: of these,
what could be one is taken out.
"""

import logging
import re
import traceback
from collections.abc import Sequence
from typing import Final

_HIDDEN: Final = "[redacted]"

# A filter is asked for its own logger's records only, not for those of the loggers below it.
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
    # A JWT, and the beginning of one.
    re.compile(r"()eyJ[\w-]{5,}(?:\.[\w-]*){0,2}"),
    re.compile(r"(\bBearer\s+)[^\s'\"]+", re.IGNORECASE),
    # A header of a name that only secrets have: in a pair, in a mapping, or on a line.
    re.compile(
        rf"""(\b(?:set-cookie|cookie)['"]?\s*[:,]\s*b?)(?:{_QUOTED}|[^\r\n'"][^\r\n]*)""",
        re.IGNORECASE,
    ),
    # The members that Secrets Manager has values in, and whatever comes after them.
    re.compile(r"(\bSecret(?:String|Binary)\b).*", re.DOTALL),
    # What a server sent and a parser refused may be any part of anything.
    re.compile(r"(\bunparsed data: ).*", re.DOTALL),
    re.compile(r"(\b(?:BadStatusLine|InvalidChunkLength|LineTooLong)\b).*", re.DOTALL),
    re.compile(r"(\bbytearray\(b).*", re.DOTALL),
)


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Take out of a record what could be a secret; every record is let through."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            # Its handler reports that.
            return True
        if (redacted := _redacted(message)) != message:
            record.msg, record.args = redacted, ()
        if record.exc_info and (error := record.exc_info[1]) is not None:
            shown = "".join(traceback.format_exception(error))
            if (redacted := _redacted(shown)) != shown:
                # The exception holds what it shows, and a handler may look at it.
                record.exc_info, record.exc_text = None, redacted.rstrip()
        return True


def _redacted(text: str) -> str:
    for secret in _SECRETS:
        text = secret.sub(rf"\1{_HIDDEN}", text)
    return text


_redaction: Final = _Redaction()


def guard_library_logs() -> None:
    """Have the libraries' records redacted from now on."""
    for name in _LOGGERS:
        # A second time changes nothing.
        logging.getLogger(name).addFilter(_redaction)
