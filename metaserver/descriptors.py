"""Descriptors are few: connections must not take those that the logs need.

A log that cannot open its next segment takes no more messages; one connection more or less is no harm.
"""

from __future__ import annotations

import os
import resource

_RESERVED = 64
"""Kept for files: the next segments and checkpoints of many logs at once, and what an operator asks for."""
_FOR_READING = 512
"""Sealed segments that stay open because they were read; what else there is to open comes first."""


def limit() -> int:
    """How many this process may have; that is what it is now, for an operator can change it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft >= 0 else 2**31  # Linux tells "no limit" as -1.


def is_reserved(descriptor: int) -> bool:
    """Whether a connection was given one of those that are kept for files, and must give it back.

    The kernel gives the lowest that is free: a high number says that few are left.
    """
    return descriptor >= limit() - min(_RESERVED, limit() // 4)


def for_reading() -> int:
    """How many sealed segments may stay open."""
    return min(_FOR_READING, limit() // 4)


def are_scarce() -> bool:
    """Whether only those are left that are kept for what is there already."""
    try:
        probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(probe)
    return is_reserved(probe)
