"""`wattstream export`: history of a range as a file."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer
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

from wattstream.cli.options import engine_key, engine_url
from wattstream.client.archive import Archive, CsvArchive, ParquetArchive, new_file
from wattstream.client.export import Exporter, Range
from wattstream.domain.errors import OperatorError
from wattstream.domain.readings import Stream

EXAMPLES = (
    "Examples:  wattstream export meter today.csv  ·  "
    "wattstream export vehicle february.parquet --start 2026-02-01T00:00:00Z "
    "--end 2026-03-01T00:00:00Z --resolution 1h  ·  "
    "wattstream export meter two.csv --id M-7 --id M-8"
)
_ARCHIVES: dict[str, Callable[[BinaryIO], Archive]] = {
    ".csv": CsvArchive,
    ".parquet": ParquetArchive,
}
_LINE_EVERY_S = 5.0


def export(
    type: Annotated[Literal["meter", "vehicle"], typer.Argument(help="Devices of one kind.")],
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Ends in .csv or .parquet.")],
    id: Annotated[
        list[str] | None, typer.Option(help="A device; may be repeated. Default: all.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Inclusive. Default: 24 h before the end.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="TIME", help="Exclusive. Default: now.")
    ] = None,
    resolution: Annotated[
        Literal["raw", "15m", "1h", "1d"],
        typer.Option(help="Readings, or sums by quarter-hour, hour or day."),
    ] = "raw",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file where it exists.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="The engine. Default: this machine, WATTSTREAM_PORT.")
    ] = None,
) -> None:
    """Take history away as CSV or Parquet, device after device, oldest first.

    Times are RFC 3339 with an offset, such as 2026-02-01T00:00:00Z. The file appears when it is
    whole: what is stopped or fails leaves nothing. Parquet needs: pip install
    'wattstream[parquet]'.
    """
    make = _ARCHIVES.get(file.suffix.lower())
    if make is None:
        raise typer.BadParameter(f"{file} must end in .csv or .parquet")
    if file.exists() and not overwrite:
        raise typer.BadParameter(f"{file} exists; add --overwrite to replace it")
    console = Console(stderr=True)
    wanted = Range(*_range(start, end), resolution)
    stream = Stream(type)
    with closing(Exporter(url or engine_url(), engine_key())) as exporter, new_file(file) as target:
        archive = make(target)
        ids = list(dict.fromkeys(id)) if id else exporter.devices(stream)
        if not ids:
            raise OperatorError(f"The engine knows no {type} yet.")
        with _shown_progress(console, file.name, len(ids)) as state:
            exporter.export(
                stream,
                ids,
                wanted,
                archive,
                on_rows=state.add_rows,
                on_devices=state.add_devices,
            )
    console.print(
        f"{file}: {state.rows:,} rows, devices: {len(ids):,}, {file.stat().st_size:,} bytes",
        highlight=False,
        markup=False,
    )


def _range(start: str | None, end: str | None) -> tuple[str, str]:
    """Return a range that stays the same over all requests."""
    if end is None:
        end = datetime.now(UTC).isoformat()
    if start is None:
        try:
            start = (datetime.fromisoformat(end) - timedelta(days=1)).isoformat()
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(
                f"{end!r} is not a time such as 2026-02-01T00:00:00Z", param_hint="--end"
            ) from error
    return start, end


class _State:
    """How far an export has come.

    Attributes:
        rows: Rows written.
        devices: Devices that are done.
    """

    def __init__(self, show: Callable[["_State"], None]) -> None:
        self.rows = 0
        self.devices = 0
        self._show = show
        self._started_s = time.monotonic()

    def add_rows(self, count: int) -> None:
        self.rows += count
        self._show(self)

    def add_devices(self, count: int) -> None:
        self.devices += count
        self._show(self)

    @property
    def words(self) -> str:
        rate = self.rows / max(time.monotonic() - self._started_s, 1e-3)
        return f"{self.rows:,} rows, {rate:,.0f}/s"


@contextmanager
def _shown_progress(console: Console, name: str, devices: int) -> Iterator[_State]:
    """Provide what counts: a live bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _State(_Lines(console, name, devices).show)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("devices"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(name, total=devices, state="")
        yield _State(
            lambda state: progress.update(task, completed=state.devices, state=state.words)
        )


class _Lines:
    def __init__(self, console: Console, name: str, devices: int) -> None:
        self._console, self._name, self._devices = console, name, devices
        self._printed_s = time.monotonic()

    def show(self, state: _State) -> None:
        if time.monotonic() - self._printed_s >= _LINE_EVERY_S:
            self._printed_s = time.monotonic()
            self._console.print(
                f"{self._name}: {state.devices:,} of {self._devices:,} devices, {state.words}",
                markup=False,
            )
