"""The bytes that requests under way hold together, bounded."""

from wattstream.domain.errors import QueueFullError


class HeldBytes:
    """Counts bytes of requests until they are answered."""

    def __init__(self, most: int) -> None:
        """Allow `most` bytes; a request that is alone may hold more."""
        self._most = most
        self._held = 0

    def try_hold(self, size: int) -> bool:
        """Count bytes as held until `let_go`, if there is room."""
        if self._held + size > self._most:
            return False
        self._held += size
        return True

    def let_go(self, size: int) -> None:
        """Count bytes as no longer held."""
        self._held -= size

    def share(self) -> "Share":
        """Return what one request holds of them: nothing yet."""
        return Share(self)

    def add(self, size: int, before: int) -> None:
        """Count more bytes of a request that holds some already.

        Raises:
            QueueFullError: Other requests hold so much that it would be too much; the bytes
                count all the same.
        """
        others = self._held - before
        self._held += size
        if others > 0 and self._held > self._most:
            raise QueueFullError(
                f"Requests under way hold more than {self._most} bytes, so this one was not "
                "taken. Send it again later, or fewer at once."
            )


class Share:
    """What one request holds."""

    __slots__ = ("_all", "_size")

    def __init__(self, held: HeldBytes) -> None:
        self._all = held
        self._size = 0

    def hold(self, size: int) -> None:
        """Hold more; raises as `HeldBytes.add` does."""
        before, self._size = self._size, self._size + size
        self._all.add(size, before)

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._all.let_go(self._size)
        self._size = 0
