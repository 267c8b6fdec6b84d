"""The watch: looks at all devices every minute, opens alerts and resolves them."""

from wattstream.watch.look import Outcome, Watch

__all__ = ["Outcome", "Watch"]
