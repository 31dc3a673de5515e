"""Draws the picture of the system, docs/pictures/system-{light,dark}.svg.

Boxes stand on a grid; an arrow runs from one box's edge to another's. Prints nothing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

TITLE = "qwen-token-refresh: the system"
DESCRIPTION = (
    "EventBridge Scheduler runs the keeper, a Lambda function, every two minutes. The keeper gets "
    "the next token from Qwen and writes it to the token secret, which your services read. The "
    "session secret with the refresh credential and the sign-in is read by the keeper alone. A "
    "lease and open incidents are kept in DynamoDB. Alerts, and CloudWatch's alarms, reach you "
    "through an SNS topic by e-mail, chat or pager."
)
WIDTH, HEIGHT = 920, 372

# The columns' left edges and widths, and the rows' upper edges: rows are all as high.
COLUMNS = {"a": (10, 178), "b": (284, 216), "c": (596, 196), "d": (830, 80)}
ROWS = {"1": 10, "2": 150, "3": 290}
ROW_HEIGHT = 72


@dataclass(frozen=True, slots=True)
class Colours:
    """A scheme: that of GitHub's pages, light or dark."""

    text: str
    faint: str
    box: str
    border: str
    keeper: str
    keeper_border: str
    line: str


SCHEMES = {
    "light": Colours("#1f2328", "#59636e", "#f6f8fa", "#afb8c1", "#ddf4ff", "#0969da", "#59636e"),
    "dark": Colours("#f0f6fc", "#9198a1", "#151b23", "#3d444d", "#0d2d52", "#4493f8", "#9198a1"),
}


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the system: where it stands, what it is called, what it does."""

    place: str
    name: str
    lines: tuple[str, ...]
    kind: str = "box"

    @property
    def left(self) -> int:
        """The left edge."""
        return COLUMNS[self.place[0]][0]

    @property
    def right(self) -> int:
        """The right edge."""
        return self.left + COLUMNS[self.place[0]][1]

    @property
    def top(self) -> int:
        """The upper edge."""
        return ROWS[self.place[1]]

    @property
    def middle(self) -> tuple[int, int]:
        """The centre."""
        return (self.left + self.right) // 2, self.top + ROW_HEIGHT // 2


@dataclass(frozen=True, slots=True)
class Arrow:
    """A way between points, with a label beside a point of its own."""

    points: tuple[tuple[int, int], ...]
    label: str = ""
    label_at: tuple[int, int] = (0, 0)
    anchor: str = "middle"
    both_ways: bool = False


SCHEDULER = Box("a2", "Schedule", ("EventBridge Scheduler,", "every 2 minutes"))
KEEPER = Box(
    "b2", "Keeper", ("Lambda: refreshes the token,", "checks it, then stores it"), "keeper"
)
QWEN = Box("b1", "Qwen", ("chat.qwen.ai, auth.qwen.ai",), "outside")
STATE = Box("c1", "DynamoDB table", ("lease, open incidents",))
TOKEN = Box("c2", "Token secret", ("the current token",))
SESSION = Box("c3", "Session secret", ("refresh credential, sign-in", "read by the keeper alone"))
TOPIC = Box("b3", "SNS topic", ("alerts, CloudWatch alarms",))
YOU = Box("a3", "You", ("e-mail, chat, pager",), "outside")
SERVICES = Box("d2", "Services", ("read it",), "outside")
BOXES = (SCHEDULER, KEEPER, QWEN, STATE, TOKEN, SESSION, TOPIC, YOU, SERVICES)

_X, _Y = KEEPER.middle
_ELBOW = (KEEPER.right + TOKEN.left) // 2
ARROWS = (
    Arrow(((SCHEDULER.right, _Y), (KEEPER.left, _Y)), "runs", (236, _Y - 9)),
    Arrow(
        ((_X, KEEPER.top), (_X, QWEN.top + ROW_HEIGHT)),
        "gets the next token",
        (_X + 12, 121),
        anchor="start",
        both_ways=True,
    ),
    Arrow(((KEEPER.right, _Y), (TOKEN.left, _Y)), "writes", (_ELBOW, _Y - 9)),
    Arrow(
        (
            (KEEPER.right, _Y - 22),
            (_ELBOW, _Y - 22),
            (_ELBOW, STATE.middle[1]),
            (STATE.left, STATE.middle[1]),
        ),
        both_ways=True,
    ),
    Arrow(
        (
            (KEEPER.right, _Y + 22),
            (_ELBOW, _Y + 22),
            (_ELBOW, SESSION.middle[1]),
            (SESSION.left, SESSION.middle[1]),
        ),
        both_ways=True,
    ),
    Arrow(((_X, KEEPER.top + ROW_HEIGHT), (_X, TOPIC.top)), "reports", (_X + 12, 261), "start"),
    Arrow(((TOPIC.left, TOPIC.middle[1]), (YOU.right, YOU.middle[1])), "tells", (236, 317)),
    Arrow(((TOKEN.right, _Y), (SERVICES.left, _Y))),
)


def main() -> int:
    """Write both pictures into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for scheme in SCHEMES:
        (folder / f"system-{scheme}.svg").write_text(picture(scheme), "utf-8")
    return 0


def picture(scheme: str) -> str:
    """Return the picture in the colours of ``scheme``."""
    colours = SCHEMES[scheme]
    parts = [_arrow(each, colours) for each in ARROWS] + [_box(each, colours) for each in BOXES]
    body = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
aria-labelledby="title desc">
<title id="title">{TITLE}</title>
<desc id="desc">{DESCRIPTION}</desc>
<defs>
<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
orient="auto-start-reverse">
<path d="M0 0 8 4 0 8z" fill="{colours.line}"/>
</marker>
</defs>
<g font-family="system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
text-anchor="middle">
{body}
</g>
</svg>
"""


def _box(box: Box, colours: Colours) -> str:
    fill, border, dashes = colours.box, colours.border, ""
    if box.kind == "keeper":
        fill, border = colours.keeper, colours.keeper_border
    elif box.kind == "outside":
        fill, dashes = "none", ' stroke-dasharray="5 4"'
    x, y = box.middle
    first = y - 9 * len(box.lines) + 4
    frame = (
        f'<rect x="{box.left}" y="{box.top}" width="{box.right - box.left}" '
        f'height="{ROW_HEIGHT}" rx="8" fill="{fill}" stroke="{border}" stroke-width="1.5"{dashes}/>'
    )
    name = (
        f'<text x="{x}" y="{first}" font-size="15" font-weight="600" fill="{colours.text}">'
        f"{escape(box.name)}</text>"
    )
    lines = [
        f'<text x="{x}" y="{first + 20 + 17 * number}" font-size="12.5" fill="{colours.faint}">'
        f"{escape(line)}</text>"
        for number, line in enumerate(box.lines)
    ]
    return "\n".join([frame, name, *lines])


def _arrow(arrow: Arrow, colours: Colours) -> str:
    points = " ".join(f"{x},{y}" for x, y in arrow.points)
    begin = ' marker-start="url(#tip)"' if arrow.both_ways else ""
    line = (
        f'<polyline points="{points}" fill="none" stroke="{colours.line}" stroke-width="1.5"'
        f'{begin} marker-end="url(#tip)"/>'
    )
    if not arrow.label:
        return line
    x, y = arrow.label_at
    return (
        f'{line}\n<text x="{x}" y="{y}" font-size="12.5" text-anchor="{arrow.anchor}" '
        f'fill="{colours.faint}">{escape(arrow.label)}</text>'
    )


if __name__ == "__main__":
    sys.exit(main())
