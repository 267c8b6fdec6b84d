"""The rules of the field: pure functions and values; no I/O, no clock, no async."""
