"""The store on PostgreSQL: schema, flushes, recomputation, answers."""

from wattstream.store.postgres.migrations import migrate
from wattstream.store.postgres.store import PostgresStore

__all__ = ["PostgresStore", "migrate"]
