"""Faults, one after another, under load; then plain SQL says whether the promises held."""
