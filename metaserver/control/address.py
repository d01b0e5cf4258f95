"""Where control sockets lie, and how to name one whose path is too long for the system call."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MASTER_SOCKET_NAME = ".control.sock"
"""The file in the logs directory of a master."""

SLAVE_SOCKET_NAME = ".control-slave.sock"
"""The file in the logs directory of a slave."""

ADDRESS_BYTES_MAX = 107
"""Longest path in a Unix socket address: 108 bytes with the terminating zero."""

REQUEST_BYTES_MAX = 64 * 1024
"""Longest request line, without its line feed."""


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Give a name of ``path`` that fits into a socket address, valid inside the ``with`` block.

    A path that is too long is named through a descriptor of its directory, ``/proc/self/fd/N/name``.

    Raises:
        OSError: the directory cannot be opened, or the last component alone is too long.

    """
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
