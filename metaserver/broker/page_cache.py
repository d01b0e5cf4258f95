"""Whether log bytes are in memory, so that sending them does not stop the loop for a disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from metaserver.storage import File

_PROBE_STRIDE_BYTES = 128 * 1024
"""The kernel reads ahead at least this much: a probe in each stride finds what is missing."""

_FETCH_BYTES = 256 * 1024
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class PageCache(Protocol):
    """What the operating system keeps in memory of a file."""

    def holds(self, file: File, position: int, size: int) -> bool:
        """Whether these bytes can be sent without waiting for the disk. May be wrong."""
        ...

    def fetch(self, file: File, position: int, size: int) -> None:
        """Read these bytes into memory; called in a worker thread. Raises OSError."""
        ...


class KernelPageCache:
    """Asks the kernel with a read that must not wait."""

    def holds(self, file: File, position: int, size: int) -> bool:
        """See :class:`PageCache`."""
        descriptor, probe, last = file.fileno(), bytearray(1), position + size - 1
        try:
            for at in (*range(position, last, _PROBE_STRIDE_BYTES), last):
                if os.preadv(descriptor, [probe], at, _NOWAIT) == 0:
                    return True  # Behind the end of the file: sending will say what is wrong.
        except BlockingIOError:
            return False
        except OSError:
            return True  # Not every filesystem can tell.
        return True

    def fetch(self, file: File, position: int, size: int) -> None:
        """See :class:`PageCache`."""
        for at in range(position, position + size, _FETCH_BYTES):
            file.read(min(_FETCH_BYTES, position + size - at), at)
