"""The targets of make, as the Makefile and what it includes define them."""

import re
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
MAKEFILES: Final = (_ROOT / "Makefile", *sorted(_ROOT.glob("make/*.mk")))
TARGETS: Final = frozenset(
    name
    for file in MAKEFILES
    for name in re.findall(r"^([a-z][a-z0-9-]*):", file.read_text(), re.MULTILINE)
)
