"""Telling systemd, or whoever else started the node in this way, how it is (sd_notify).

Source: sd_notify(3) and sd_watchdog_enabled(3). The watchdog is fed by the event loop, so a loop that stands
still for the time the unit allows is a node that is started again.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_log = get_logger(__name__)

_STATUS_SECONDS = 10.0
"""The state is told so often, where there is no watchdog to be fed."""
_STATUS_CHARACTERS_MAX = 300


@attrs.define(eq=False)
class ServiceManager:
    """Where a node says that it is ready, stops, and lives."""

    _address: str | None
    """Of a Unix datagram socket; None: nobody wants to know."""
    _feed_seconds: float | None
    """The watchdog wants to hear from us so often; None: there is none."""

    @classmethod
    def of(cls, environment: MutableMapping[str, str], pid: int) -> ServiceManager:
        """What the environment says, which is taken out of it: it is not meant for our children."""
        address = environment.pop("NOTIFY_SOCKET", "") or None
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_for_us = environment.pop("WATCHDOG_PID", str(pid)) == str(pid)
        feed_seconds = None
        if address and is_for_us and microseconds.isdigit() and int(microseconds) > 0:
            # Half of what it allows, as its manual says.
            feed_seconds = int(microseconds) / 2_000_000
        return cls(address, feed_seconds)

    def ready(self, status: str) -> None:
        """The node does its work."""
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def stopping(self) -> None:
        """It has begun to stop."""
        self._tell("STOPPING=1", "STATUS=stopping")

    async def run(self, status: Callable[[], str]) -> None:
        """Feed the watchdog, and tell the state, until cancelled."""
        if self._address is None:
            return
        while True:
            await trio.sleep(self._feed_seconds or _STATUS_SECONDS)
            feed = () if self._feed_seconds is None else ("WATCHDOG=1",)
            self._tell(*feed, f"STATUS={_one_line(status())}")

    def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract name.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifying:
            notifying.setblocking(False)
            try:
                notifying.sendto("\n".join(assignments).encode(), address)
            except OSError as error:
                _log.warning("The service manager cannot be told", address=self._address, reason=str(error))


def own_service_manager() -> ServiceManager:
    """Of this process; asked once."""
    return ServiceManager.of(os.environ, os.getpid())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_STATUS_CHARACTERS_MAX]
