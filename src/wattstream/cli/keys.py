"""`wattstream keys`: make, list and revoke keys; `wattstream audit`: who changed what."""

import asyncio
import getpass
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from wattstream.application import clock_us
from wattstream.cli.options import DATA_DIR, DATABASE_URL, POSTGRES_USER
from wattstream.domain.access import MAX_STARS, Act, Key, Reach, Scope, digest_of
from wattstream.domain.errors import OperatorError
from wattstream.domain.links import FOREVER_US
from wattstream.domain.units import MICRO, rfc3339
from wattstream.log import configure_logging
from wattstream.query.keyring import new_token
from wattstream.settings import Settings, load, seconds_of
from wattstream.store.embedded.attach import attached, password_of
from wattstream.store.embedded.roles import ENGINE
from wattstream.store.postgres.access import PostgresAccess
from wattstream.store.postgres.connections import Worker
from wattstream.store.postgres.migrations import migrate

EXAMPLES = (
    "Examples:  wattstream keys create --name operator --scope admin  ·  "
    "wattstream keys create --name depot-7 --scope ingest --fleet depot-7 --expires 90d  ·  "
    "wattstream keys list  ·  wattstream keys revoke k7q2…"
)
AUDIT_EXAMPLES = "Example:  wattstream audit --limit 50"

Result = TypeVar("Result")

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of clients.")


@keys.command("create", epilog=EXAMPLES)
def create(
    name: Annotated[str, typer.Option(help="What the key is for, in your words.")],
    scope: Annotated[
        list[Scope],
        typer.Option(help="ingest: send; read: see; admin: all of it, and change. Repeatable."),
    ],
    fleet: Annotated[str | None, typer.Option(help="Only devices with this fleet label.")] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="Only devices with such ids: * for any characters, ? for one."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Void after this time, such as 12h or 90d. Default: never.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Most requests a second. Default: no limit.", min=0.01)
    ] = None,
    database_url: DATABASE_URL = None,
    data_dir: DATA_DIR = None,
    postgres_user: POSTGRES_USER = None,
) -> None:
    """Make a key and show it, this once: of its secret, only a hash is kept."""
    token = new_token()
    now_us = clock_us()
    key = Key(
        token.prefix,
        digest_of(token.secret),
        _checked_text("name", name) or "",
        frozenset(scope),
        Reach(_checked_text("fleet", fleet), _checked_pattern(devices)),
        now_us,
        FOREVER_US if expires is None else now_us + seconds_of("expires", expires) * MICRO,
        requests_per_s=rate,
    )
    settings = _settings(database_url, data_dir, postgres_user)
    _run(settings, f"create key {key.prefix} {key.name}", lambda store: store.add(key))
    scopes = ", ".join(sorted(key.scopes))
    _say(f"Made the key {key.name!r} for {scopes}, on {key.reach}. It is shown this once:")
    print(token)


@keys.command("list", epilog="Example:  wattstream keys list")
def list_keys(
    database_url: DATABASE_URL = None,
    data_dir: DATA_DIR = None,
    postgres_user: POSTGRES_USER = None,
) -> None:
    """List all keys, those that are void too; sessions of browsers are left out."""
    settings = _settings(database_url, data_dir, postgres_user)
    _, found = _run(settings, None, lambda store: store.keys())
    table = Table("Prefix", "Name", "Scopes", "Reach", "Requests/s", "Made", "Until")
    table.columns[0].no_wrap = True
    for key in (key for key in found if key.parent is None):
        until = "for good" if key.expires_at_us == FOREVER_US else rfc3339(key.expires_at_us)
        if key.revoked_at_us != FOREVER_US:
            until = f"revoked {rfc3339(key.revoked_at_us)}"
        elif not key.is_valid(clock_us()):
            until = f"expired {until}"
        rate = "any" if key.requests_per_s is None else f"{key.requests_per_s:g}"
        scopes = ", ".join(sorted(key.scopes))
        made = rfc3339(key.created_at_us)
        table.add_row(
            key.prefix, _plain(key.name), scopes, _plain(str(key.reach)), rate, made, until
        )
    Console().print(table)
    if not table.row_count:
        _say("There are no keys: the engine lets everybody in. `wattstream keys create` makes one.")


@keys.command("revoke", epilog="Example:  wattstream keys revoke k7q2abcdefgh")
def revoke(
    prefix: Annotated[str, typer.Argument(help="Of the key, as `wattstream keys list` shows it.")],
    database_url: DATABASE_URL = None,
    data_dir: DATA_DIR = None,
    postgres_user: POSTGRES_USER = None,
) -> None:
    """Void a key and the sessions begun with it, within a second and for good."""
    settings = _settings(database_url, data_dir, postgres_user)
    gone = _run(settings, f"revoke key {prefix}", lambda store: store.revoke(prefix, clock_us()))
    if not gone:
        raise OperatorError(
            f"there is no key {prefix!r} that is valid; `wattstream keys list` shows all"
        )
    sessions = len(gone) - 1
    _say(f"Revoked {prefix}" + (f" with {sessions} sessions." if sessions else "."))


def audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most acts, newest first.")] = 100,
    database_url: DATABASE_URL = None,
    data_dir: DATA_DIR = None,
    postgres_user: POSTGRES_USER = None,
) -> None:
    """Show administrative acts: who changed what, when, and with what answer."""
    settings = _settings(database_url, data_dir, postgres_user)
    found = _run(settings, None, lambda store: store.acts(FOREVER_US, limit))
    table = Table("When", "Who", "From", "Act", "Detail", "Answer")
    for kept in found:
        act = kept.act
        answer = "none" if kept.status is None else str(kept.status)
        texts = (act.who, act.address or "", act.act, act.detail or "")
        table.add_row(rfc3339(act.at_us), *map(_plain, texts), answer)
    Console().print(table)


def _settings(
    database_url: str | None, data_dir: str | None, postgres_user: str | None
) -> Settings:
    return load(
        {"database_url": database_url, "data_dir": data_dir, "postgres_user": postgres_user}
    )


def _run(
    settings: Settings, act: str | None, work: Callable[[PostgresAccess], Awaitable[Result]]
) -> Result:
    """Do work on the engine's database, whether the engine runs or not; write an act down."""

    async def run(conninfo: str) -> Result:
        worker = Worker(conninfo, "keys command")
        store = PostgresAccess(worker)
        try:
            if act is None:
                return await work(store)
            who = f"command line ({getpass.getuser()})"
            audit_id = await store.begin_act(Act(clock_us(), who, None, act))
            done = await work(store)
            await store.end_act(audit_id, 404 if done == [] else 200)
            return done
        finally:
            await worker.close()

    configure_logging(settings.log_format, "warning")
    with _database(settings) as conninfo:
        migrate(conninfo)
        return asyncio.run(run(conninfo))


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Provide the engine's database, whether the engine runs or not."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    data_dir = Path(os.path.realpath(settings.data_dir))
    with attached(data_dir, settings.postgres_user) as conninfo:
        # As the engine's role, whose tables they are to be.
        role = f"-c role={ENGINE}"
        yield make_conninfo(conninfo, password=password_of(data_dir), options=role)


def _checked_text(what: str, text: str | None) -> str | None:
    if text is not None and not (1 <= len(text) <= 128 and text.isprintable()):
        raise OperatorError(f"--{what} must be 1 to 128 printable characters, got {text!r}")
    return text


def _checked_pattern(pattern: str | None) -> str | None:
    if pattern is None:
        return None
    shorter = re.sub(r"\*+", "*", pattern)
    if not (1 <= len(shorter) <= 128 and shorter.isprintable() and " " not in shorter):
        raise OperatorError(
            f"--devices must be 1 to 128 printable characters without white space, got {pattern!r}"
        )
    if shorter.count("*") > MAX_STARS:
        raise OperatorError(f"--devices may hold {MAX_STARS} stars at most, got {pattern!r}")
    return shorter


def _plain(text: str) -> str:
    """Return text that a table shows as it is."""
    return "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text
    ).replace("[", r"\[")


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
