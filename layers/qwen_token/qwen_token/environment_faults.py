"""Which environment variable keeps requests or boto3 from reaching the network.

Called only after a failure. A variable's value is never quoted: it may hold a password.
"""

import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# The variables that requests and botocore read; the first one that is set counts.
REQUESTS_CA_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
AWS_CA_BUNDLES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
HTTPS_PROXIES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def first_set(variables: Iterable[str]) -> str | None:
    """Return the first variable that is set and not empty."""
    return next((name for name in variables if os.environ.get(name)), None)


def unusable_ca_bundle(variables: Iterable[str]) -> str | None:
    """Return the variable that names the CA bundle if that bundle cannot be used."""
    name = first_set(variables)
    return None if name is None or _is_ca_bundle(os.environ[name]) else name


def _is_ca_bundle(path: str) -> bool:
    try:
        if Path(path).is_dir():
            return True
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):
        # Absent, unreadable, or without a certificate.
        return False
    return True
