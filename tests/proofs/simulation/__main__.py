"""The long simulation: hundreds of years of every kind of login, at random, on every core."""

import argparse
import concurrent.futures
import logging
import os
import random
import secrets
import sys
import time
from datetime import timedelta
from typing import Final

# Powertools reads its environment when the handler is imported.
os.environ["POWERTOOLS_SERVICE_NAME"] = "simulation"
os.environ["POWERTOOLS_METRICS_NAMESPACE"] = "QwenTokenRefresh"

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import handler

from .simulated_life import InvariantError, Kind, Tally
from .walk import begun_life, live, settle_hosts

_YEARS_A_LIFE: Final = 1
_YEAR: Final = timedelta(days=365)
# Not 15 minutes: of 144 refreshes a day, nearly all would be alike.
_ACCESS_LIFETIME: Final = timedelta(hours=6)


def main() -> int:
    """Simulate, print what happened, and return 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--years", type=int, default=500, help="token-years (default: 500)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to have it again")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: all cores")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    lives = -(-options.years // _YEARS_A_LIFE)

    console = Console(highlight=False)
    began = time.monotonic()
    tally = Tally()
    with (
        concurrent.futures.ProcessPoolExecutor(options.workers) as pool,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task(f"{options.years:,} token-years, seed {seed}", total=lives)
        pending = [pool.submit(_life, f"{seed}-{number}") for number in range(lives)]
        for future in concurrent.futures.as_completed(pending):
            outcome = future.result()
            if isinstance(outcome, str):
                pool.shutdown(cancel_futures=True)
                console.print(f"seed {seed}: {outcome}", markup=False, soft_wrap=True)
                return 1
            tally.add(outcome)
            progress.advance(task)
    _print(console, tally, seed, time.monotonic() - began)
    return 0


def _life(seed: str) -> Tally | str:
    """Simulate one life; return what happened, or the invariant that did not hold and its story."""
    # Of millions of runs, nobody reads the log.
    handler.logger.setLevel(logging.CRITICAL)
    rng = random.Random(seed)  # noqa: S311 - no secret
    life = begun_life(rng.choice(list(Kind)))
    settle_hosts(life, rng, _ACCESS_LIFETIME)
    try:
        live(life, rng, time=_YEARS_A_LIFE * _YEAR)
    except InvariantError as error:
        return f"life {seed}: {error}"
    return life.tally


def _print(console: Console, tally: Tally, seed: int, seconds: float) -> None:
    table = Table(title=f"Simulation, seed {seed}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("token-years", f"{tally.time.days / 365:,.0f}")
    for name, count in sorted((+tally.counts).items()):
        table.add_row(name, f"{count:,}")
    table.add_row("invariants broken", "0")
    console.print(table)
    console.print(f"In {seconds:,.0f} s.")


if __name__ == "__main__":
    sys.exit(main())
