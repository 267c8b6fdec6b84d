"""Alerts for those who ask: listed, shown, acknowledged."""

from collections.abc import Callable
from dataclasses import dataclass

from wattstream.caller import caller
from wattstream.domain.alerts import Alert, AlertFilter
from wattstream.domain.errors import ConflictError, NotFoundError
from wattstream.domain.units import rfc3339
from wattstream.query.reach import PAGE, names_within, page_within
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
        reach = caller().reach
        async with self.store.snapshot() as snapshot:
            if reach.is_whole:
                return await snapshot.alerts(wanted, before, limit)

            async def fetch(place: int) -> list[Alert]:
                return await snapshot.alerts(wanted, place, PAGE)

            async def keep(part: list[Alert]) -> list[Alert]:
                seen = await names_within(
                    snapshot, reach, [(each.stream, each.device) for each in part]
                )
                return [each for each in part if (each.stream, each.device) in seen]

            return await page_within(fetch, lambda each: each.alert_id, keep, before, limit)

    async def alert(self, alert_id: int) -> Alert:
        """Return an alert, or raise NotFoundError."""
        reach = caller().reach
        async with self.store.snapshot() as snapshot:
            found = await snapshot.alert(alert_id)
            if found is not None and not reach.is_whole:
                name = (found.stream, found.device)
                if name not in await names_within(snapshot, reach, [name]):
                    found = None  # out of reach, it is as one that is not there
        if found is None:
            raise NotFoundError(f"there is no alert {alert_id}", code="alert_unknown")
        return found

    async def acknowledge(self, alert_id: int, by: str | None) -> Alert:
        """Acknowledge an alert and return it; one that was acknowledged stays as it is.

        Raises:
            NotFoundError: There is no such alert.
            ConflictError: It was resolved before anybody acknowledged it.
        """
        await self.alert(alert_id)
        await self.store.acknowledge(alert_id, by, self.clock_us())
        alert = await self.alert(alert_id)
        if alert.acknowledged_at_us is None and alert.resolved_at_us is not None:
            raise ConflictError(
                f"alert {alert_id} was resolved at {rfc3339(alert.resolved_at_us)}: there is "
                "nothing left to acknowledge",
                code="alert_resolved",
            )
        return alert
