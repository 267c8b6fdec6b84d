"""Devices of the registry and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wattstream.domain.readings import Stream
from wattstream.domain.register import Rules


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the registry.

    Attributes:
        key: Its key inside the store.
        external_id: The id it reports.
        fleet: Label, or None.
        time_zone: IANA name.
        alert_thresholds: Its own, by kind of alert; None switches a kind off.
    """

    key: int
    stream: Stream
    external_id: str
    rules: Rules
    fleet: str | None
    time_zone: str
    alert_thresholds: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """Settings to change; those that are None stay, unless named in `clear`.

    Attributes:
        clear: Names of attributes to set back to nothing.
    """

    energy_mode: int | None = None
    modulus_ukwh: int | None = None
    rated_w: int | None = None
    heartbeat_s: int | None = None
    time_zone: str | None = None
    fleet: str | None = None
    alert_thresholds: Mapping[str, float | None] | None = None
    clear: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PendingRules:
    """Rules that a device gets once its history is recomputed.

    Attributes:
        progress: Share of its history that is done, 0 to 1.
    """

    rules: Rules
    progress: float
