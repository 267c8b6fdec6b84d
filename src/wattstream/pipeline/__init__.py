"""From decoded columns to committed flushes."""
