"""Which variable of this process's environment keeps foreign code from reaching the network.

Looked at only after something has failed. What a variable holds is never said: it may be a
password.
"""

import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# What requests looks at, and what botocore does; the first that is set counts.
REQUESTS_CA_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
AWS_CA_BUNDLES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
HTTPS_PROXIES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def first_set(variables: Iterable[str]) -> str | None:
    """Return the first of the variables that is set, and not to an empty text."""
    return next((name for name in variables if os.environ.get(name)), None)


def unusable_ca_bundle(variables: Iterable[str]) -> str | None:
    """Return the variable that names the CA bundle, if that cannot be used."""
    name = first_set(variables)
    return None if name is None or _is_ca_bundle(os.environ[name]) else name


def _is_ca_bundle(path: str) -> bool:
    try:
        if Path(path).is_dir():
            return True
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):
        # Not there, not to be read, or without a certificate.
        return False
    return True
