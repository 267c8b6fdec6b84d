"""Attacks on a running engine, and what they cost its other clients."""
