"""The watch beside a running engine: what fails is logged, and tried again."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from wattstream.domain.alerts import AlertKind
from wattstream.domain.errors import WattstreamError
from wattstream.watch.look import Watch
from wattstream.watch.webhook import Webhook

_DELIVER_EVERY_S = 2.0

_log = structlog.get_logger()


async def look_regularly(
    watch: Watch,
    interval_s: int,
    clock_us: Callable[[], int],
    show: Callable[[Mapping[AlertKind, int]], None],
) -> None:
    """Look until cancelled.

    Args:
        watch: What looks.
        interval_s: From one look to the next.
        clock_us: The engine's clock.
        show: Called after each look with how many alerts of each kind are open.
    """
    while True:
        try:
            outcome = await watch.look(clock_us())
        except WattstreamError as error:
            _log.warning("A look at the devices failed; it is tried again", why=error.message)
        except Exception:  # noqa: BLE001 - a bug here must not end the engine
            _log.exception("A look at the devices failed; it is tried again")
        else:
            show(outcome.open)
            if outcome.opened or outcome.resolved:
                _log.info("Alerts changed", opened=outcome.opened, resolved=outcome.resolved)
        await asyncio.sleep(interval_s)


async def deliver_regularly(webhook: Webhook, clock_us: Callable[[], int]) -> None:
    """Tell a webhook what there is to tell, until cancelled."""
    while True:
        try:
            await webhook.deliver(clock_us())
        except WattstreamError as error:
            _log.warning("Events for the webhook were not read; they wait", why=error.message)
        except Exception:  # noqa: BLE001 - a bug here must not end the engine
            _log.exception("Events for the webhook were not sent; they wait")
        await asyncio.sleep(_DELIVER_EVERY_S)
