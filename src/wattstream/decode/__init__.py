"""Bytes to columns: pure, one module per format; no clock, no I/O."""
