"""The command line: `wattstream COMMAND`, each with --help and examples."""

import asyncio
import signal
import sys
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import wattstream
from wattstream.app import database, serve
from wattstream.cli import backup, bench, export, keys, replay, simulate, top
from wattstream.cli.doctor import doctor
from wattstream.cli.options import shown_default, with_settings
from wattstream.cli.simulated import simulated_devices
from wattstream.domain.errors import WattstreamError
from wattstream.limits import raise_open_files
from wattstream.log import configure_logging
from wattstream.settings import PREFIX, SECRET, Settings, unit_of
from wattstream.store.postgres.migrations import migrate
from wattstream.workers import serve_by_workers

_console = Console(stderr=True)
app = typer.Typer(
    name="wattstream",
    help="Energy telemetry ingestion: smart meters and electric vehicles into PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"wattstream {wattstream.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(
    "serve",
    epilog="Examples:  wattstream serve  ·  wattstream serve --port 9000 --simulate 100  ·  "
    "WATTSTREAM_DATABASE_URL=postgresql://… wattstream serve.  "
    "Each flag is also a variable: --max-past is WATTSTREAM_MAX_PAST.",
)
@with_settings()
def serve_command(settings: Settings) -> None:
    """Run the engine until Ctrl-C or SIGTERM, on the embedded PostgreSQL unless told otherwise."""
    configure_logging(settings.log_format, settings.log_level)
    raise_open_files()
    with simulated_devices(settings.simulate) as start_devices:

        def ready(url: str) -> None:
            _console.print(f"[bold green]Wattstream is ready:[/] {url}  (docs: {url}/docs)")
            start_devices(url)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            serving = serve if settings.workers == 1 else serve_by_workers
            runner.run(serving(settings, ready))
    _console.print("Wattstream has stopped; everything acknowledged is on disk.")


@app.command("migrate", epilog="Example:  wattstream migrate --database-url postgresql://…")
@with_settings("database_url", "data_dir", "postgres_user", "log_format", "log_level")
def migrate_command(settings: Settings) -> None:
    """Bring the database's schema up to this version; `serve` does so by itself."""
    configure_logging(settings.log_format, settings.log_level)
    with database(settings) as (conninfo, _):
        applied = migrate(conninfo)
    print(f"Applied: {', '.join(applied)}." if applied else "The schema is up to date.")


@app.command("settings", epilog="Example:  WATTSTREAM_PORT=9000 wattstream settings")
@with_settings()
def settings_command(settings: Settings) -> None:
    """List every setting with value, default, unit and help."""
    table = Table("Variable", "Value", "Default", "Unit", "Help", show_lines=False)
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name in SECRET and value is not None:
            value = "(set)"
        shown = "unset" if value is None else str(value)
        default = shown_default(name).removesuffix(f" {unit_of(name)}")
        table.add_row(PREFIX + name.upper(), shown, default, unit_of(name) or "", field.description)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)


app.command("doctor", epilog="Example:  wattstream doctor")(
    with_settings("host", "port", "database_url", "data_dir", "postgres_user")(doctor)
)
app.command("simulate", epilog=simulate.EXAMPLES)(simulate.simulate)
app.command("replay", epilog=replay.EXAMPLES)(replay.replay)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("top", epilog=top.EXAMPLES)(top.top)
app.command("backup", epilog=backup.BACKUP_EXAMPLES)(backup.backup)
app.command("restore", epilog=backup.RESTORE_EXAMPLES)(backup.restore)
app.add_typer(keys.keys, name="keys", epilog=keys.EXAMPLES)
app.command("audit", epilog=keys.AUDIT_EXAMPLES)(keys.audit)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)


def run() -> None:
    """Run the command line; errors that a person can mend end with a message and status 1."""
    # As Ctrl-C does, it lets what runs stop its servers and take away its files.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except WattstreamError as error:
        message = escape(error.message)
        _console.print(f"[bold red]Error:[/] {message}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
