"""Readiness of many descriptors in one trio task: all connections, the listener, the disk threads.

A task for each connection costs a pass through the scheduler and two system calls for each request; here a
descriptor is registered once, and a round calls the handlers of all that are ready (figures in
docs/decisions/0003). Handlers are synchronous and must not raise.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
BROKEN = select.EPOLLHUP | select.EPOLLERR

_EVENTS_MAX = 64
_ROUNDS_MAX = 8
"""After so many handlers, in so many rounds, the other tasks have their turn. What has become ready while
a round was handled is found by the next at a tenth of the cost of a pass through the scheduler."""


@attrs.define(eq=False)
class Poller:
    """Calls handlers from :meth:`run`; create and use it on the loop only."""

    _epoll: select.epoll = attrs.Factory(select.epoll)
    _handlers: dict[int, Callable[[int], None]] = attrs.Factory(dict)

    def register(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(events)`` whenever one of the events holds, or the peer is gone."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events from now on."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Forget the descriptor; call it before closing it."""
        del self._handlers[descriptor]
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Call handlers until cancelled."""
        handlers = self._handlers
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for _ in range(_ROUNDS_MAX):
                ready = self._epoll.poll(0, _EVENTS_MAX)
                if not ready:
                    break
                for descriptor, events in ready:
                    # A handler earlier in this round may have closed this one's descriptor. Should it have
                    # been given out again already, the new owner finds nothing to do.
                    handler = handlers.get(descriptor)
                    if handler is not None:
                        handler(events)

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
