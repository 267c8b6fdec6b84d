"""`wattstream backup` and `wattstream restore`: the embedded database as a folder, and back."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wattstream.cli.options import DATA_DIR, POSTGRES_USER
from wattstream.domain.errors import EmbeddedServerError
from wattstream.settings import Settings, load
from wattstream.store.embedded.backup import back_up
from wattstream.store.embedded.backup import restore as restore_backup

BACKUP_EXAMPLES = "Example:  wattstream backup /backup/wattstream-2026-05-01"
RESTORE_EXAMPLES = (
    "Example:  wattstream restore /backup/wattstream-2026-05-01 --data-dir wattstream-data"
)


def backup(
    target: Annotated[Path, typer.Argument(help="Folder to make; it must not hold anything.")],
    data_dir: DATA_DIR = None,
    postgres_user: POSTGRES_USER = None,
) -> None:
    """Copy the embedded database, consistent, while the engine runs or not; then check the copy."""
    settings = _embedded(data_dir, postgres_user)
    console = Console(stderr=True)
    began = time.monotonic()
    back_up(settings.data_dir, target, settings.postgres_user)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    took_s = time.monotonic() - began
    console.print(
        f"Backed up to {target}: {size / 1e6:,.0f} MB in {took_s:.0f} s, checked against its "
        "manifest. It holds the database's password: keep it as safe as the data folder.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that `wattstream backup` made.")],
    data_dir: DATA_DIR = None,
    postgres_user: POSTGRES_USER = None,
) -> None:
    """Check a backup, copy it into an empty data folder, and start it once."""
    settings = _embedded(data_dir, postgres_user)
    held = restore_backup(source, settings.data_dir, settings.postgres_user)
    newest = f", the newest of {held.last_at:%Y-%m-%d %H:%M:%S} UTC" if held.last_at else ""
    Console(stderr=True).print(
        f"Restored into {settings.data_dir}: {held.readings:,} readings{newest}. "
        "`wattstream serve` goes on from there.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _embedded(data_dir: str | None, postgres_user: str | None) -> Settings:
    settings = load({"data_dir": data_dir, "postgres_user": postgres_user})
    if settings.database_url is not None:
        raise EmbeddedServerError(
            "WATTSTREAM_DATABASE_URL names a server of yours, and this command is for the "
            "embedded one; use that server's own backup, such as pg_dump, or unset the variable"
        )
    return settings
