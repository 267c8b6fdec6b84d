"""Alerts for those who ask: listed, shown, acknowledged."""

from collections.abc import Callable
from dataclasses import dataclass

from wattstream.domain.alerts import Alert, AlertFilter
from wattstream.domain.errors import ConflictError, NotFoundError
from wattstream.domain.units import rfc3339
from wattstream.store.alert_port import AlertStore


@dataclass(frozen=True, slots=True)
class AlertQueries:
    """What can be asked of an engine's alerts; every method raises StoreUnavailableError.

    Attributes:
        store: Where they are kept.
        clock_us: The engine's clock, microseconds since 1970.
    """

    store: AlertStore
    clock_us: Callable[[], int]

    async def alerts(self, wanted: AlertFilter, before: int, limit: int) -> list[Alert]:
        """Return up to `limit` alerts with numbers below `before`, newest first."""
        async with self.store.snapshot() as snapshot:
            return await snapshot.alerts(wanted, before, limit)

    async def alert(self, alert_id: int) -> Alert:
        """Return an alert, or raise NotFoundError."""
        async with self.store.snapshot() as snapshot:
            found = await snapshot.alert(alert_id)
        if found is None:
            raise NotFoundError(f"there is no alert {alert_id}", code="alert_unknown")
        return found

    async def acknowledge(self, alert_id: int, by: str | None) -> Alert:
        """Acknowledge an alert and return it; one that was acknowledged stays as it is.

        Raises:
            NotFoundError: There is no such alert.
            ConflictError: It was resolved before anybody acknowledged it.
        """
        await self.store.acknowledge(alert_id, by, self.clock_us())
        alert = await self.alert(alert_id)
        if alert.acknowledged_at_us is None and alert.resolved_at_us is not None:
            raise ConflictError(
                f"alert {alert_id} was resolved at {rfc3339(alert.resolved_at_us)}: there is "
                "nothing left to acknowledge",
                code="alert_resolved",
            )
        return alert
