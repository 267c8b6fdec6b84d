"""The PostgreSQL that comes along: found, set up, started, supervised and stopped."""

from wattstream.store.embedded.binaries import Binaries, find_binaries
from wattstream.store.embedded.server import EmbeddedPostgres

__all__ = ["Binaries", "EmbeddedPostgres", "find_binaries"]
