"""Ports for servers whose port must be known before they listen."""

from __future__ import annotations

import random
import socket
from collections import deque

_PORTS = range(10_240, 32_000)
"""Below what the kernel gives to those who ask for any, and to outgoing connections: a client that knocks
at a dead broker's port could be given that very port for its own end, and nothing could listen there."""
_ATTEMPTS_MAX = 1000
_HELD_MAX = 256
"""So that descriptors stay few; by then a port's server listens, or nobody needs it any more."""

_held: deque[socket.socket] = deque()
_chosen = random.SystemRandom()
"""Not the shared generator, which tests seed."""


def free_port() -> int:
    """A TCP port that nobody listens on, and that this gives to nobody else meanwhile, in any process.

    What marks it as given is the UDP port of the same number, held until this process ends or has asked
    for 256 others. A look alone would not do: between the look and the listening, and while a server is
    down that comes back to its port, another would be given it.
    """
    for _ in range(_ATTEMPTS_MAX):
        port = _chosen.choice(_PORTS)
        mark = socket.socket(type=socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        if len(_held) == _HELD_MAX:
            _held.popleft().close()
        _held.append(mark)
        return port
    raise OSError(f"none of {_ATTEMPTS_MAX} ports was free on 127.0.0.1")
