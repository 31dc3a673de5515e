"""``make crash-points``: try every fault at every point, show the table, and write it down."""

import sys
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from localcloud.aws import local_cloud

from .faults import Result, Verdict, cases, try_all
from .sandbox import sandboxes
from .table import DOCUMENT, document, summary, tables

# Where there is no terminal: what the tables need.
_WIDTH: Final = 104


def main() -> int:
    """Return 0 where everything survived that could."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with local_cloud() as cloud, sandboxes(cloud) as made, progress:
        all_cases = cases(made)
        task = progress.add_task("every fault at every point", total=len(all_cases))

        def count(_result: Result) -> None:
            progress.advance(task)

        results = try_all(made, all_cases, on_result=count)
    for table in tables(results):
        console.print(table)
    console.print(
        f"[green]{Verdict.WELL.value}[/] ended well all the same   "
        f"[green]{Verdict.TOLD.value}[/] failed, and told its owner   "
        f"[green]{Verdict.MENDED.value}[/] was killed   (each mended by the runs after it)\n"
        f"[green]{Verdict.SIGNED_IN.value}[/] lost what the host gave: a sign-in made up for it\n"
        f"[yellow]{Verdict.BEYOND.value}[/] only the host knows what lives: "
        f"the next run calls a person   [red]{Verdict.BROKEN.value}[/] broken\n"
    )
    for result in results:
        for problem in result.problems:
            case = result.case
            console.print(
                f"[red]{case.kind.title}, {case.point + 1}. {case.call}, {case.fault.value}:[/] "
                f"{problem}"
            )
    console.print(summary(results), style="bold")
    document(results)
    console.print(f"Written to {DOCUMENT.name}.")
    return int(any(result.problems for result in results))


if __name__ == "__main__":
    sys.exit(main())
