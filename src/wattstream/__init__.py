"""Wattstream: high-scale energy telemetry ingestion on PostgreSQL."""

from importlib.metadata import version

__version__ = version("wattstream")
