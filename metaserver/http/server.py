"""The door of the HTTP pages: what to show, the limits, and opening the port.

This module imports neither hypercorn nor starlette: a broker that starts opens the port here and
loads the rest (``connections.py``, ``application.py``) beside its work.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from metaserver.errors import MetaServerError
from metaserver.http.source import HttpLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.http.connections import Connections
    from metaserver.http.history import History
    from metaserver.http.source import HttpSource


class HttpPortError(MetaServerError, OSError):
    """The HTTP port cannot be opened; ``errno`` and ``strerror`` are those of the cause."""

    def __init__(self, host: str, port: int, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror or str(cause))
        self.host = host
        self.port = port

    def __str__(self) -> str:
        """Address, reason, and what to do."""
        return (
            f"the HTTP port {self.host}:{self.port} cannot be opened: {self.strerror}; "
            f"choose another dashboardHttpPort, or stop what uses this one"
        )


async def serve_http(
    host: str,
    port: int,
    source: HttpSource,
    *,
    limits: HttpLimits | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the pages until cancelled; reports the port (useful with port 0) once it is open.

    The port is open at once; requests wait in it while hypercorn and starlette are imported in a
    worker thread, so start this after the broker's own port. Cancelled, it stops accepting, lets
    answers under way finish for ``limits.stop_seconds``, and closes the rest.

    Raises:
        HttpPortError: the port cannot be opened; nothing has been started.

    """
    limits = limits or HttpLimits()
    listeners = await _open_listeners(host, port)
    try:
        task_status.started(listeners[0].socket.getsockname()[1])
        connections, history = await trio.to_thread.run_sync(_load, source, limits, host)
        async with trio.open_nursery() as nursery:
            if history is not None:
                nursery.start_soon(history.run)
            await connections.serve(listeners)
    finally:
        for listener in listeners:
            listener.socket.close()


async def _open_listeners(host: str, port: int) -> Sequence[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise HttpPortError(host, port, error) from error


def _load(source: HttpSource, limits: HttpLimits, host: str) -> tuple[Connections, History | None]:
    # Imported here, because the libraries cost 0.3 s of processor time that a start should not wait for.
    from metaserver.http.access import Access  # noqa: PLC0415
    from metaserver.http.application import Parts, build_application  # noqa: PLC0415
    from metaserver.http.connections import Connections  # noqa: PLC0415
    from metaserver.http.history import History  # noqa: PLC0415

    door = source.door
    if door is None:
        return Connections(build_application(source), limits), None
    config = door.config
    names = {"localhost", socket.gethostname(), config.host_name or "localhost"}
    access = Access(
        lambda: door.users,
        is_loopback=is_loopback(host),
        own_hosts=frozenset(name.lower() for name in names),
        requests_per_second=config.http_requests_per_second,
    )
    parts = Parts(door, access, limits, History(door.traffic, door.topics_with_traffic, door.topic_traffic))
    return Connections(build_application(source, parts), limits), parts.history


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
