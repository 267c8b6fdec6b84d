"""Command-line flags for every setting, made from the settings themselves."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from wattstream.settings import Settings, load, unit_of


def with_settings(*names: str) -> Callable[[Callable[[Settings], None]], Callable[..., None]]:
    """Give a command a flag for each named setting, or for all; it receives the settings.

    A flag wins over the environment variable of the same name.
    """
    # A key as a flag would be read in the list of processes.
    chosen = names or tuple(name for name in Settings.model_fields if name != "key")

    def decorate(command: Callable[[Settings], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**flags: Any) -> None:
            command(load(flags))

        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name in chosen
            for kind in [_annotation(name)]
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _annotation(name: str) -> Any:
    field = Settings.model_fields[name]
    unit = unit_of(name)
    help_text = f"{field.description} Default: {shown_default(name)}."
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)]
    return Annotated[str | None, typer.Option(flag, help=help_text, metavar=(unit or name).upper())]


def shown_default(name: str) -> str:
    """Return a setting's default as people write it."""
    default = Settings.model_fields[name].default
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return "yes" if default else "no"
    unit = unit_of(name)
    return f"{default} {unit}" if unit else str(default)


DATABASE_URL = Annotated[
    str | None, typer.Option("--database-url", help="As for `serve`. Default: the embedded one.")
]
DATA_DIR = Annotated[
    str | None,
    typer.Option("--data-dir", help="The engine's data folder. Default: wattstream-data."),
]
POSTGRES_USER = Annotated[
    str | None,
    typer.Option("--postgres-user", help="As for `serve` when started by root. Default: nobody."),
]


def engine_url() -> str:
    """Return the URL of this machine's engine, as its settings say."""
    settings = load()
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://{host}:{settings.port}"


def engine_key() -> str | None:
    """Return the key that commands send to an engine, as the settings say."""
    return load().key
