"""Every setting: name, default, unit and help in one place.

A setting is an environment variable ``WATTSTREAM_<NAME>`` and a flag of the same name.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from wattstream.domain.alerts import THRESHOLDS, AlertKind
from wattstream.domain.errors import SettingsError

PREFIX = "WATTSTREAM_"
_TEST_PREFIX = "WATTSTREAM_TEST_"
SECRET = frozenset({"database_url", "key", "webhook_url", "webhook_secret"})
"""Settings whose values are never shown."""
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def _scaled(units: Mapping[str, int], example: str) -> BeforeValidator:
    def parse(value: object) -> object:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", value.lower())
        if match is None or match[2] not in units:
            raise ValueError(f"write a whole number with a unit, such as {example}")
        return int(match[1]) * units[match[2]]

    return BeforeValidator(parse)


Duration = Annotated[int, _scaled(_SECONDS, "90s, 10min, 2h or 400d"), Field(ge=0)]


def _listed(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(filter(None, re.split(r"[\s,]+", value)))


_Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^\s/*]+)$")]
Origins = Annotated[tuple[_Origin, ...], BeforeValidator(_listed)]
Size = Annotated[int, _scaled(_BYTES, "512KiB, 16MiB or 1GiB"), Field(gt=0)]


def _setting(default: Any, unit: str | None, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"unit": unit}, **limits)


def _alert(kind: AlertKind, description: str) -> Any:
    """Return a usual threshold; devices may have their own."""
    limit = THRESHOLDS[kind]
    return _setting(limit.default, limit.unit, description, ge=limit.low, le=limit.high)


class Settings(BaseModel):
    """All settings of one engine, validated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = _setting("127.0.0.1", None, "Address to listen on.")
    port: int = _setting(8000, None, "TCP port to listen on; 0 picks a free one.", ge=0, le=65535)
    database_url: str | None = _setting(
        None, None, "PostgreSQL 15 or newer to use, postgresql://…; unset: the embedded one."
    )
    data_dir: Path = _setting(
        Path("wattstream-data"), None, "Folder of the embedded PostgreSQL and of the engine's lock."
    )
    postgres_user: str = _setting(
        "nobody", None, "System user that the embedded PostgreSQL runs as when started by root."
    )
    simulate: int = _setting(
        0,
        "pairs",
        "Simulated meter and vehicle pairs that `serve` drives itself.",
        ge=0,
        le=100_000,
    )
    workers: int = _setting(
        1,
        "processes",
        "Engine processes behind the port, each with lanes, queue and connections of its own.",
        ge=1,
        le=64,
    )
    max_future: Duration = _setting(
        600, "s", "How far ahead of the engine's clock a timestamp may be."
    )
    max_past: Duration = _setting(
        400 * 86400, "s", "How far behind the engine's clock a timestamp may be."
    )
    max_body: Size = _setting(16 * 1024**2, "bytes", "Largest request body as it arrives.")
    max_decoded_body: Size = _setting(
        64 * 1024**2, "bytes", "Largest request body after decompression."
    )
    max_records: int = _setting(
        250_000, "records", "Records of one request, or lines; each { in it counts as one.", gt=0
    )
    max_connections: int | None = _setting(
        None,
        "connections",
        "Open connections of clients; unset: 10000, or fewer where the limit of open files is low.",
        gt=0,
    )
    header_timeout: Duration = _setting(
        10, "s", "How long the line and headers of a request may take.", gt=0
    )
    body_timeout: Duration = _setting(
        300,
        "s",
        "How long the body of a request may take; less than 1 KiB/s is too slow anyway.",
        gt=0,
    )
    idle_timeout: Duration = _setting(
        75, "s", "How long a connection stays open between two requests.", gt=0
    )
    tls_certificate: Path | None = _setting(
        None, None, "PEM file of the certificate and those that issued it: the engine speaks https."
    )
    tls_key: Path | None = _setting(None, None, "PEM file of the certificate's key.")
    cors_origins: Origins | None = _setting(
        None, None, "Sites whose pages may ask this engine, such as https://a.example; or *."
    )
    queue_readings: int = _setting(
        400_000, "readings", "Readings that may wait for a commit before requests get 503.", gt=0
    )
    queue_bytes: Size = _setting(
        256 * 1024**2,
        "bytes",
        "Request bodies held at once, each until it is answered, before requests get 503.",
    )
    flush_readings: int = _setting(
        60_000, "readings", "Most readings of one transaction.", gt=0, le=200_000
    )
    read_connections: int = _setting(
        6, "connections", "Database connections that answer queries.", gt=0, le=100
    )
    key: str | None = _setting(
        None, None, "Key that commands send to an engine: simulate, replay, export, top. No flag."
    )
    allow_open: bool = _setting(
        False, None, "Serve without any key on an address that others reach."
    )
    link_same_id: bool = _setting(
        True, None, "Link a vehicle to the meter of the same id where no link names either."
    )
    efficiency_threshold: float = _setting(
        0.85, "fraction", "Efficiency below this is reported as a fault.", gt=0, le=1
    )
    rejections_max_age: Duration = _setting(
        30 * 86400, "s", "How long a refused record is kept; counts by code stay."
    )
    rejections_max_bytes: Size = _setting(
        1024**3, "bytes", "Refused records kept at most, the newest; counts by code stay."
    )
    alert_interval: Duration = _setting(
        60, "s", "How often the engine looks for faults of devices; 0: never."
    )
    alert_over_unity: float = _alert(AlertKind.OVER_UNITY, "Efficiency above this is an alert.")
    alert_frozen_meter: float = _alert(
        AlertKind.FROZEN_METER,
        "Energy that a vehicle gains in a quarter-hour in which its meters gain nothing.",
    )
    alert_silent: float = _alert(
        AlertKind.SILENT, "Heartbeats of a device without a reading that are an alert."
    )
    alert_battery_hot: float = _alert(
        AlertKind.BATTERY_HOT, "Battery temperature that is an alert."
    )
    alert_efficiency_drift: float = _alert(
        AlertKind.EFFICIENCY_DRIFT,
        "How many times the usual evidence a slow loss of efficiency takes to be an alert.",
    )
    alert_clock_offset: float = _alert(
        AlertKind.CLOCK_OFFSET, "Distance of a vehicle's and its meter's clocks that is an alert."
    )
    webhook_url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = _setting(
        None, None, "Where openings and resolutions of alerts are posted, http:// or https://."
    )
    webhook_secret: Annotated[str, Field(min_length=16)] | None = _setting(
        None, None, "Key that posts to the webhook are signed with, 16 characters or more."
    )
    shutdown_grace: Duration = _setting(30, "s", "How long a stop waits for requests under way.")
    slow_flush: Duration = _setting(
        2, "s", "A flush that takes this long or longer is explained in the log; 0: none."
    )
    log_format: Literal["console", "json"] = _setting("console", None, "Form of the log.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", None, "Least severe message that is logged."
    )

    @model_validator(mode="after")
    def _webhook_is_signed(self) -> "Settings":
        if self.webhook_url is not None and self.webhook_secret is None:
            raise ValueError(
                f"{PREFIX}WEBHOOK_SECRET is not set: what goes to {PREFIX}WEBHOOK_URL is signed "
                "with it; choose 16 characters or more"
            )
        return self

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "CERTIFICATE" if self.tls_certificate is None else "KEY"
            raise ValueError(f"{PREFIX}TLS_{missing} is not set: TLS needs a certificate and a key")
        return self

    def alert_thresholds(self) -> dict[AlertKind, float]:
        """Return the usual threshold of every kind of alert that has a setting."""
        own = {
            kind: getattr(self, f"alert_{kind}")
            for kind in AlertKind
            if f"alert_{kind}" in Settings.model_fields
        }
        return {AlertKind.LOW_EFFICIENCY: self.efficiency_threshold, **own}


def seconds_of(name: str, text: str) -> int:
    """Return a duration such as 90s, 12h or 400d in seconds.

    Raises:
        SettingsError: It is none.
    """
    try:
        return TypeAdapter[int](Duration).validate_python(text)
    except ValidationError as error:
        words = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name}: {words}, got {text!r}") from error


def unit_of(name: str) -> str | None:
    """Return the unit of a setting as shown to people, or None."""
    extra = Settings.model_fields[name].json_schema_extra
    unit = extra.get("unit") if isinstance(extra, dict) else None
    return str(unit) if unit is not None else None


def load(
    overrides: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings: flags before environment before defaults.

    Args:
        overrides: Values by setting name, as given by flags; None values are ignored.
        environ: The environment; the process's own by default. Empty values count as unset.

    Raises:
        SettingsError: With every wrong or unknown variable named.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    problems: list[str] = []
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable.startswith(_TEST_PREFIX) or value == "":
            continue
        if name in Settings.model_fields:
            values[name] = value
        else:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            shown = variable if variable.isprintable() else ascii(variable)
            problems.append(f"{shown} is not a setting{hint}")
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
    if problems:
        raise SettingsError(
            "Wrong settings:\n"
            + "\n".join(f"  {problem}" for problem in sorted(problems))
            + "\n`wattstream settings` lists all of them with their units."
        )
    return settings


def _problem(detail: Any) -> str:
    text: str = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return text
    name = str(detail["loc"][0])
    shown = "(hidden)" if name in SECRET else repr(detail["input"])
    return f"{PREFIX}{name.upper()}={shown}: {text}"
