"""The promises of SECURITY.md, broken one by one: does the test that is named there notice?"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TABLE: Final = Path(__file__).with_name("breaks.toml")


@dataclass(frozen=True, slots=True)
class Break:
    """A change of one place that breaks a promise, and the test that must notice it by itself.

    The place is the first ``was`` in ``file`` that comes after ``after``, which stands there once.
    """

    name: str
    test: str
    file: str
    was: str
    becomes: str
    after: str = ""

    def of(self, text: str) -> str:
        """Return the text of the file with the break in it."""
        before, found, rest = text.partition(self.after) if self.after else ("", "", text)
        assert not self.after or (found and self.after not in rest), f"{self.name}: {self.after!r}"
        assert self.was in rest, f"{self.name}: {self.was!r}"
        assert self.after or rest.count(self.was) == 1, f"{self.name}: {self.was!r} stands twice"
        return f"{before}{found}{rest.replace(self.was, self.becomes, 1)}"


def breaks() -> list[Break]:
    """Return all breaks, in the order of the promises."""
    return [Break(name, **each) for name, each in tomllib.loads(_TABLE.read_text("utf-8")).items()]
