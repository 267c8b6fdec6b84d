"""`wattstream bench`: how fast this machine ingests."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wattstream.bench.run import PARTS, Bench, Row, description
from wattstream.log import configure_logging

EXAMPLES = (
    "Examples:  wattstream bench  ·  wattstream bench --only batch --quick --json result.json"
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
    can be compared between machines; rates cannot. The part `single` needs wrk.
    """
    unknown = set(only or ()) - set(PARTS)
    if unknown:
        raise typer.BadParameter(
            f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    configure_logging("console", "error")
    console = Console()
    console.print(f"{os.cpu_count()} cores; {description()}.", highlight=False)
    rows: list[Row] = []
    with console.status("measuring …") as status:

        def note(row: Row) -> None:
            rows.append(row)
            status.update(f"measured {row.case} …")
            if not console.is_terminal:
                console.print(f"{row.case}: {row.rate:,.0f}/s", highlight=False)

        try:
            Bench(quick=quick, on_row=note).run(tuple(only or PARTS))
        finally:  # what was measured before a failure or Ctrl-C is kept
            if rows:
                console.print(_table(rows))
                if json_file is not None:
                    measured = [row.as_json() for row in rows]
                    json_file.write_text(json.dumps(measured, indent=1) + "\n")


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
