"""`wattstream top`: an engine and its fleet, live in a terminal."""

import time
from contextlib import closing, suppress
from typing import Annotated

import typer
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from wattstream.cli.options import engine_key, engine_url
from wattstream.client.overview import Observer, Overview
from wattstream.domain.errors import OperatorError

EXAMPLES = "Examples:  wattstream top  ·  wattstream top --every 5  ·  wattstream top --once"
_SHOWN_CODES = 8
_NONE = "–"


def top(
    every: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="From look to look.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame and end; so does a pipe.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="The engine. Default: this machine, WATTSTREAM_PORT.")
    ] = None,
) -> None:
    """Watch an engine: its fleet of the last day, what comes in, what is refused, who is silent.

    Ctrl-C ends it.
    """
    console = Console()
    with closing(Observer(url or engine_url(), engine_key())) as observer:
        if once or not console.is_terminal:
            console.print(frame(observer.url, observer.look()))
            return
        with suppress(KeyboardInterrupt), Live(console=console, screen=True) as live:
            last: RenderableType = Text("")
            while True:
                try:
                    last = frame(observer.url, observer.look())
                    live.update(last, refresh=True)
                except OperatorError as error:
                    live.update(Group(Text(error.message, "bold red"), last), refresh=True)
                time.sleep(every)


def frame(url: str, seen: Overview) -> RenderableType:
    """Return one frame."""
    head = Text.assemble(("Wattstream ", "bold green"), (url, "dim"))
    boxes = [_fleet(seen), _ingest(seen), _refused(seen), _alerts(seen)]
    return Group(head, Columns(boxes), _silent(seen))


def _fleet(seen: Overview) -> Panel:
    fleet = seen.fleet
    return _pairs(
        "Fleet, last 24 h",
        {
            "Meters": f"{fleet.devices.get('meter', 0):,}",
            "Vehicles": f"{fleet.devices.get('vehicle', 0):,}",
            "AC": _NONE if fleet.ac_kwh is None else f"{fleet.ac_kwh:,.1f} kWh",
            "DC": f"{fleet.dc_kwh:,.1f} kWh",
            "Efficiency": _NONE if fleet.efficiency is None else f"{fleet.efficiency:.1%}",
        },
    )


def _ingest(seen: Overview) -> Panel:
    return _pairs(
        "Ingest",
        {
            "Heartbeats": f"{seen.rate('readings_received_total'):,.1f} /s",
            "Stored": f"{seen.rate('readings_stored_total'):,.1f} /s",
            "Queue": f"{seen.counters.total('queue_readings'):,.0f} readings",
            "Lag, median": _seconds(seen.lately.quantile("lag_seconds", 0.5, reading="newest")),
            "Answer, p99": _seconds(seen.lately.quantile("ack_seconds", 0.99)),
        },
    )


def _refused(seen: Overview) -> Panel:
    codes = seen.counters.by("readings_rejected_total", "code")
    lately = seen.lately.by("readings_rejected_total", "code")
    rows = {
        code: f"{count:,.0f}  (+{lately.get(code, 0):,.0f})"
        for code, count in list(codes.items())[:_SHOWN_CODES]
    }
    if len(codes) > _SHOWN_CODES:
        rows["others"] = f"{sum(list(codes.values())[_SHOWN_CODES:]):,.0f}"
    return _pairs("Refused since the start", rows or {"nothing": ""})


def _alerts(seen: Overview) -> Panel:
    kinds = seen.counters.by("alerts_open", "kind")
    rows = {kind: f"{count:,.0f}" for kind, count in kinds.items() if count}
    return _pairs("Open alerts", rows or {"none": ""})


def _silent(seen: Overview) -> RenderableType:
    fleet = seen.fleet
    if not fleet.silent:
        return Text("No device is silent.", "dim")
    table = Table(title=f"Longest silent, of {fleet.silent_count:,}", title_justify="left")
    table.add_column("Type")
    table.add_column("Device")
    table.add_column("Nothing heard for", justify="right")
    for device in fleet.silent:
        table.add_row(device.type, Text(device.id), _long(device.quiet_s))
    return table


def _pairs(title: str, rows: dict[str, str]) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan")
    grid.add_column(justify="right")
    for name, value in rows.items():
        grid.add_row(Text(name), Text(value))
    return Panel(grid, title=title, title_align="left")


def _seconds(value_s: float | None) -> str:
    if value_s is None:
        return _NONE
    return f"{value_s * 1000:,.0f} ms" if value_s < 1 else f"{value_s:,.1f} s"


def _long(value_s: float) -> str:
    minutes = int(value_s // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60:02} min"
