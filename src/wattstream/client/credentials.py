"""The key that programs send to an engine."""


def authorization(key: str | None) -> dict[str, str]:
    """Return the headers that show a key; none where there is none."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}
