"""Protocols that bring readings in."""
