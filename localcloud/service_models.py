"""boto3's descriptions of AWS's services, read once in a process.

Each session looks for those of its clients among boto3's files, reads and parses them, which takes
a tenth of a second for each client: many a test, and a command of the command line, does little
else.
"""

from functools import cache

from botocore import session


def read_once() -> None:
    """Let all sessions of this process, and of its forks, share what one of them has read."""
    session.create_loader = cache(session.create_loader)
