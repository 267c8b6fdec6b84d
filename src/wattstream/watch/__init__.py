"""The watch: looks at all devices every minute, opens alerts and resolves them."""

from wattstream.watch.look import Outcome, Watch
from wattstream.watch.run import deliver_regularly, look_regularly
from wattstream.watch.webhook import Webhook

__all__ = ["Outcome", "Watch", "Webhook", "deliver_regularly", "look_regularly"]
