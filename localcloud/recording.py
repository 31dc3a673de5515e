"""Records a real ``make run`` as pictures for the README, in light and dark."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from .screen import Screen
from .show import show

_WIDTH: Final = 100
_TITLE: Final = "make run"
_DESCRIPTION: Final = (
    "A terminal. The stack is built and deployed into an AWS emulator. A token with two days left "
    "and a session are put in; the schedule runs the function, and both tokens are refreshed while "
    "readers read. A firewall answers: a notice, and no e-mail. Qwen ends the login: one alert by "
    "e-mail says what to do. A new login brings the recovery."
)

# GitHub's colours, as in the other picture. Of the eight ANSI colours, the screen uses three.
_ANSI: Final = {
    "light": [(31, 35, 40), (207, 34, 46), (26, 127, 55), (154, 103, 0)],
    "dark": [(240, 246, 252), (248, 81, 73), (63, 185, 80), (210, 153, 34)],
}
_THEMES: Final = {
    "light": TerminalTheme((246, 248, 250), (31, 35, 40), _ANSI["light"] + _ANSI["light"]),
    "dark": TerminalTheme((21, 27, 35), (240, 246, 252), _ANSI["dark"] + _ANSI["dark"]),
}

# As rich's own, with words for those who do not see it, and without the font from another host.
_FORMAT: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width}} {{height}}" role="img" \
aria-labelledby="title desc">
<title id="title">{_TITLE}</title>
<desc id="desc">{_DESCRIPTION}</desc>
<style>
.{{unique_id}}-matrix {{{{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {{char_height}}px;
  line-height: {{line_height}}px;
}}}}
.{{unique_id}}-title {{{{ font: bold 18px system-ui, Helvetica, Arial, sans-serif; }}}}
{{styles}}
</style>
<defs>
<clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}"/>
</clipPath>
{{lines}}
</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})"
clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">
{{matrix}}
</g>
</g>
</svg>
"""


class _Excerpt(Screen):
    """What fits into a picture: the steps, the tokens' lives, and the e-mail's first half.

    A heading is printed only if something below it is.
    """

    _heading: str | None = None

    def heading(self, text: str) -> None:
        self._heading = text

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Leave it out."""

    def facts(self, facts: Mapping[str, str]) -> None:
        """Leave them out."""

    def lifetimes(self, *args: object, **options: object) -> None:
        self._show_heading()
        super().lifetimes(*args, **options)  # type: ignore[arg-type]

    def letter(self, title: str, text: str) -> None:
        if title == "e-mail":
            self._show_heading()
            shown, _, _ = text.partition("\n  AWS CLI only:")
            super().letter(title, f"{shown}\n…")

    def _show_heading(self) -> None:
        if self._heading is not None:
            super().heading(self._heading)
            self._heading = None


def main() -> int:
    """Run it all, and write both pictures into the folder that the command line names."""
    folder = Path(sys.argv[1])
    console = Console(record=True, width=_WIDTH, color_system="truecolor", highlight=False)
    show(_Excerpt(console), real_token=None, keep=None)
    for scheme, theme in _THEMES.items():
        text = console.export_svg(
            title=_TITLE, theme=theme, clear=False, code_format=_FORMAT, unique_id="run"
        )
        lines = [line.strip() for line in text.splitlines()]
        (folder / f"run-{scheme}.svg").write_text("\n".join(filter(None, lines)) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
