"""The table of points and faults: for a terminal with rich, and for docs/proofs.md as Markdown."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table

from localcloud.aws import ROOT

from .faults import SURVIVED, Case, Fault, Result, Verdict

DOCUMENT: Final[Path] = ROOT / "docs/proofs.md"
_BEGINS: Final = "<!-- make crash-points writes from here … -->\n"
_ENDS: Final = "<!-- … to here -->\n"

_STYLES: Final = {
    Verdict.WELL: "green",
    Verdict.TOLD: "green",
    Verdict.MENDED: "green",
    Verdict.SIGNED_IN: "green",
    Verdict.BEYOND: "yellow",
    Verdict.BROKEN: "bold red",
}

# Of calls, not the heading.
_ROW: Final = re.compile(r"\| \d+\. ")

Row = tuple[str, list[Verdict]]


def tables(results: Sequence[Result]) -> Iterator[Table]:
    """Yield a table for each kind of run."""
    for title, rows in _by_kind(results):
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("call", overflow="fold")
        for fault in Fault:
            table.add_column(fault.value, justify="center", width=6)
        for call, verdicts in rows:
            signs = [f"[{_STYLES[verdict]}]{verdict.value}[/]" for verdict in verdicts]
            table.add_row(call, *signs)
        yield table


def markdown(results: Sequence[Result]) -> str:
    """Return all of it as Markdown, with the counts."""
    lines = [f"**{summary(results)}**", ""]
    for title, rows in _by_kind(results):
        lines += [f"### {title}", ""]
        lines.append(" | ".join(("| call", *(fault.value for fault in Fault))) + " |")
        lines.append("| --- |" + " :-: |" * len(Fault))
        for call, verdicts in rows:
            lines.append(" | ".join((f"| {call}", *(each.value for each in verdicts))) + " |")
        lines.append("")
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """Return the counts, in a sentence."""
    survived = sum(result.verdict in SURVIVED for result in results)
    beyond = sum(result.verdict is Verdict.BEYOND for result in results)
    points = len({(result.case.kind.title, result.case.point) for result in results})
    return (
        f"{points} points, {len(Fault)} faults at each, {len(results)} cases: {survived} survived, "
        f"{beyond} beyond anybody's reach, {len(results) - survived - beyond} broken."
    )


def documented() -> str:
    """Return what docs/proofs.md says."""
    _, _, rest = DOCUMENT.read_text().partition(_BEGINS)
    return rest.partition(_ENDS)[0]


def documented_signs() -> dict[tuple[str, str, Fault], str]:
    """Return what docs/proofs.md says, by the kind of run, the numbered call and the fault."""
    signs: dict[tuple[str, str, Fault], str] = {}
    title = ""
    for line in documented().splitlines():
        if line.startswith("### "):
            title = line.removeprefix("### ")
        elif _ROW.match(line):
            call, *verdicts = (cell.strip() for cell in line.strip("|").split("|"))
            signs |= {
                (title, call, fault): verdict
                for fault, verdict in zip(Fault, verdicts, strict=True)
            }
    return signs


def numbered(case: Case) -> str:
    """Return a case's call as the table names it."""
    return f"{case.point + 1}. {case.call}"


def document(results: Sequence[Result]) -> None:
    """Write the results into docs/proofs.md."""
    head, _, rest = DOCUMENT.read_text().partition(_BEGINS)
    _, _, tail = rest.partition(_ENDS)
    DOCUMENT.write_text(f"{head}{_BEGINS}{markdown(results)}{_ENDS}{tail}")


def _by_kind(results: Sequence[Result]) -> Iterator[tuple[str, list[Row]]]:
    for title in dict.fromkeys(result.case.kind.title for result in results):
        verdicts: dict[str, dict[Fault, Verdict]] = {}
        for case, verdict in ((each.case, each.verdict) for each in results):
            if case.kind.title == title:
                verdicts.setdefault(numbered(case), {})[case.fault] = verdict
        yield (
            title,
            [(call, [found[fault] for fault in Fault]) for call, found in verdicts.items()],
        )
