"""`wattstream replay`: files of readings to an engine."""

import asyncio
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from wattstream.cli.options import engine_key, engine_url
from wattstream.cli.progress import print_totals, shown_progress
from wattstream.client.replay import Replay, shift_to_now_us, survey
from wattstream.client.replay import replay as send_files
from wattstream.client.sender import Sender
from wattstream.domain.units import MICRO

EXAMPLES = (
    "Examples:  wattstream replay meter.jsonl --mode register --shift-to-now  ·  "
    "wattstream replay a.csv b.jsonl.gz --shift-by 86400 --rate 1000  ·  "
    "wattstream replay car.jsonl charger.jsonl --clock-offset charger-1=-7195"
)


def _seconds_us(text: str) -> int:
    """Return decimal seconds as whole microseconds."""
    try:
        return int(Decimal(text) * MICRO)
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise typer.BadParameter(f"{text!r} is not a number of seconds") from error


def _offsets_us(texts: list[str]) -> dict[str, int]:
    offsets = {}
    for text in texts:
        name, mark, seconds = text.rpartition("=")
        if not mark or not name:
            raise typer.BadParameter(f"{text!r} must be ID=SECONDS, such as charger-1=-7195")
        offsets[name] = _seconds_us(seconds)
    return offsets


def replay(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="JSON lines (.jsonl, .ndjson) or CSV in the API's field names, also .gz.",
        ),
    ],
    mode: Annotated[
        Literal["register", "interval"] | None,
        typer.Option(help="Energy mode that the files' devices get before their readings."),
    ] = None,
    shift_to_now: Annotated[
        bool,
        typer.Option(
            "--shift-to-now", help="Move all files by one amount so that the newest is now."
        ),
    ] = False,
    shift_by: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Move all timestamps by that much.")
    ] = None,
    clock_offset: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=SECONDS", help="Correct one device's clock; may be repeated."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Readings a second; default: no limit.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Readings a request.")] = 5000,
    connections: Annotated[int, typer.Option(min=1, max=64, help="Requests at once.")] = 1,
    url: Annotated[
        str | None, typer.Option(help="The engine. Default: this machine, WATTSTREAM_PORT.")
    ] = None,
) -> None:
    """Send files of readings. Sending them again is safe: a reading is counted once.

    A line that is no JSON object goes to the engine as it is, which keeps it among the
    rejections. A run that was stopped is resumed by the same command, with --shift-by where
    the first one printed a shift.
    """
    if shift_to_now and shift_by is not None:
        raise typer.BadParameter("--shift-to-now and --shift-by exclude each other")
    console = Console()
    offsets = _offsets_us(clock_offset or [])
    found = survey(files, offsets)
    shift_us = 0 if shift_by is None else _seconds_us(shift_by)
    if shift_to_now:
        shift_us = shift_to_now_us(found, time.time_ns() // 1000)
        console.print(
            f"All timestamps move by {shift_us // MICRO} s. "
            f"To repeat this run: --shift-by {shift_us // MICRO}",
            highlight=False,
        )
    plan = Replay(files, shift_us, offsets, mode, rate, batch)

    async def run() -> Sender:
        sender = Sender(url or engine_url(), connections=connections, key=engine_key())
        try:
            label = files[0].name if len(files) == 1 else f"{len(files)} files"
            with shown_progress(console, label, found.rows, sender.totals) as advance:
                await send_files(plan, found.devices, sender, advance)
        except asyncio.CancelledError:
            console.print("Stopped; the same command goes on where this one ended.")
        finally:
            await sender.close()
        return sender

    totals = asyncio.run(run()).totals
    print_totals(console, totals)
    if totals.rejected or totals.sent < found.rows:
        raise typer.Exit(1)
