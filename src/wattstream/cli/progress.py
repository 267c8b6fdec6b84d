"""Progress of sending: a live bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from wattstream.client.sender import Totals

_LINE_EVERY_S = 5.0


@contextmanager
def shown_progress(
    console: Console, label: str, total: int | None, totals: Totals
) -> Iterator[Callable[[int], None]]:
    """Provide a function that is told of each answered request's readings."""
    if console.is_terminal:
        with _live(console, label, total, totals) as advance:
            yield advance
    else:
        yield _Lines(console, label, total, totals).advance


@contextmanager
def _live(
    console: Console, label: str, total: int | None, totals: Totals
) -> Iterator[Callable[[int], None]]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    started = time.monotonic()
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(label, total=total, state="")

        def advance(readings: int) -> None:
            progress.update(task, advance=readings, state=state_of(totals, started))

        yield advance


class _Lines:
    """Prints where things stand every few seconds."""

    def __init__(self, console: Console, label: str, total: int | None, totals: Totals) -> None:
        self._console, self._label, self._total, self._totals = console, label, total, totals
        self._started = self._printed = time.monotonic()
        self._done = 0

    def advance(self, readings: int) -> None:
        self._done += readings
        if time.monotonic() - self._printed >= _LINE_EVERY_S:
            self._printed = time.monotonic()
            of = f" of {self._total:,}" if self._total else ""
            state = state_of(self._totals, self._started)
            self._console.print(f"{self._label}: {self._done:,}{of} readings, {state}")


def state_of(totals: Totals, started: float) -> str:
    """Return where things stand in a few words."""
    rate = totals.sent / max(time.monotonic() - started, 1e-3)
    words = [f"{rate:,.0f} readings/s", f"ack p99 {totals.percentile_ms(0.99):.0f} ms"]
    if totals.rejected:
        words.append(f"[red]{totals.rejected:,} rejected[/]")
    if totals.retries:
        words.append(f"[yellow]{totals.retries:,} retries[/]")
    return ", ".join(words)


def print_totals(console: Console, totals: Totals) -> None:
    """Print what became of everything sent, with the first message of each error."""
    table = Table("Sent", "Stored", "Duplicates", "Rejected", "Requests", "Retries", "Ack p50/p99")
    table.add_row(
        f"{totals.sent:,}",
        f"{totals.stored:,}",
        f"{totals.duplicates:,}",
        f"{totals.rejected:,}",
        f"{totals.requests:,}",
        f"{totals.retries:,}",
        f"{totals.percentile_ms(0.5):.0f}/{totals.percentile_ms(0.99):.0f} ms",
    )
    console.print(table)
    for code, message in totals.errors.items():
        console.print(f"{code} ({totals.codes[code]:,}): {message}", highlight=False, markup=False)
