"""`wattstream bench`: how fast this machine ingests."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wattstream.bench.detection import HEALTHY
from wattstream.bench.detection import description as detection_description
from wattstream.bench.run import DETECTION, PARTS, USUAL, Bench, Row, Score, description
from wattstream.log import configure_logging

EXAMPLES = (
    "Examples:  wattstream bench  ·  wattstream bench --only batch --quick --json result.json  ·  "
    "wattstream bench --only detection"
)


def bench(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help=f"One of {', '.join(PARTS)}; may be repeated."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A quarter of the load: rough figures.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure ingest on an embedded PostgreSQL of its own, as ratios of references.

    Every answer is checked and durable. Ratios are of references of the same run, so they
    can be compared between machines; rates cannot. The part `single` needs wrk. The part
    `detection` measures how soon injected faults are alerted, and runs only where named.
    """
    unknown = set(only or ()) - set(PARTS)
    if unknown:
        raise typer.BadParameter(
            f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    configure_logging("console", "error")
    console = Console()
    parts = tuple(only or USUAL)
    if set(parts) - {DETECTION}:
        console.print(f"{os.cpu_count()} cores; {description()}.", highlight=False)
    if DETECTION in parts:
        console.print(f"Detection: {detection_description()}.", highlight=False)
    rows: list[Row] = []
    scores: list[Score] = []
    with console.status("measuring …") as status:

        def note(row: Row) -> None:
            rows.append(row)
            status.update(f"measured {row.case} …")
            if not console.is_terminal:
                console.print(f"{row.case}: {row.rate:,.0f}/s", highlight=False)

        def note_score(score: Score) -> None:
            scores.append(score)
            status.update(f"measured {score.kind} of seed {score.seed} …")
            if not console.is_terminal:
                line = f"seed {score.seed}, {score.kind}: {score.found} of {score.cases}"
                console.print(line, highlight=False)

        try:
            Bench(quick=quick, on_row=note, on_score=note_score).run(parts)
        finally:  # what was measured before a failure or Ctrl-C is kept
            if rows:
                console.print(_table(rows))
            if scores:
                console.print(_scores_table(scores))
            if json_file is not None and (rows or scores):
                measured = [row.as_json() for row in rows]
                measured += [score.as_json() for score in scores]
                json_file.write_text(json.dumps(measured, indent=1) + "\n")
    if not all(score.is_met for score in scores):
        raise typer.Exit(1)


def _table(rows: list[Row]) -> Table:
    table = Table("Part", "Case")
    for name in ("per second", "ratio", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        numbers = (row.ratio, row.p50_ms, row.p99_ms)
        ratio, p50, p99 = (
            "" if number is None else f"{number:.{digits}f}"
            for number, digits in zip(numbers, (2, 1, 1), strict=True)
        )
        table.add_row(row.part, row.case, f"{row.rate:,.0f}", ratio, p50, p99, row.note)
    return table


def _scores_table(scores: list[Score]) -> Table:
    table = Table("Seed", "Fault")
    for name in ("cases", "alerted in time", "wanted", "median days"):
        table.add_column(name, justify="right")
    table.add_column("")
    for score in scores:
        bound = "at most" if score.kind == HEALTHY else "at least"
        median = "" if score.median_days is None else f"{score.median_days:.1f}"
        table.add_row(
            str(score.seed),
            score.kind,
            f"{score.cases:,}",
            str(score.found) if score.is_met else f"[red]{score.found}[/]",
            f"{bound} {score.wanted}",
            median,
            score.note,
        )
    return table
