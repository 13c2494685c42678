"""What a child prints: counted as it comes, and only its end kept."""

import asyncio
import os
from collections.abc import Callable

_TAIL = 8 * 1024
"""Bytes that are kept."""


class Output:
    """A pipe that a child writes to. Reading stops for good once more than `limit` bytes came."""

    def __init__(self, limit: int, overflowed: Callable[[int], None]) -> None:
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        self._limit = limit
        self._overflowed = overflowed
        self._tail = b""
        self.size = 0
        asyncio.get_running_loop().add_reader(self._read, self._take)

    def begun(self) -> None:
        """Close our copy of the end that the child now holds."""
        os.close(self.write)
        self.write = -1

    def close(self) -> None:
        """Take what is still in the pipe and close it. Idempotent."""
        if self._read >= 0:
            self._take()
            asyncio.get_running_loop().remove_reader(self._read)
            os.close(self._read)
            self._read = -1
        if self.write >= 0:
            self.begun()

    def text(self) -> str:
        return self._tail.decode(errors="replace")

    def _take(self) -> None:
        try:
            piece = os.read(self._read, 1 << 16)
        except BlockingIOError:
            return
        self.size += len(piece)
        self._tail = (self._tail + piece)[-_TAIL:]
        if not piece or self.size > self._limit:
            asyncio.get_running_loop().remove_reader(self._read)
        if self.size > self._limit:
            self._overflowed(self.size)
