"""Answers, computed from the store's port."""
