"""A session with a ZooKeeper, as an event loop sees it: trio's or asyncio's. Kazoo's threads end here.

Kazoo has threads of its own: one that holds the connection, and two for callbacks. What they report
re-enters the loop; nothing here waits for them on the loop. Every wait is bounded.

Kazoo keeps the session alive, finds another server of the ensemble, and opens a new session when the old one
has expired. What it does not do, this module adds: a server that does not answer the connection attempt is
given up in time for the next to be tried; one that came back without its data is made friends with; a kazoo
whose thread has died is replaced; what it logs at each attempt of a long outage is debugging, not a warning.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread
import attrs
import sniffio
from kazoo import exceptions as kazoo_errors
from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.states import KazooState, KeeperState
from kazoo.retry import KazooRetry

from metaserver.errors import ConnectionLostError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = get_logger(__name__)

Kazoo: TypeAlias = Any
"""What kazoo hands out and takes: it has no types. None of it leaves this package."""

Enter: TypeAlias = "Callable[[Callable[[], None]], None]"

_WINDOW = 100
"""Requests in flight. Kazoo is told of each by a byte in a socket, which must never be full."""
_RECONNECT_SECONDS_MAX = 3.0
"""Between two rounds of connection attempts."""
_RENEW_SECONDS = 30.0
"""A kazoo that has had so long since its start and is not even connecting is replaced."""
_CLOSE_SECONDS_MAX = 2.0


@attrs.frozen(kw_only=True)
class TreeSettings:
    """Which ZooKeeper, and how long it may be silent."""

    servers: str
    """``HOST:PORT,HOST:PORT``, without a path."""
    session_timeout_seconds: float
    connection_timeout_seconds: float
    """For one attempt at one server."""


@attrs.define(eq=False)
class KazooLink:
    """One session after another. Make it on the loop with :meth:`open`."""

    _settings: TreeSettings
    _on_change: Callable[[], None]
    _enter: Enter
    _client: Kazoo = None
    _session: int | None = None
    _start_time: float = 0.0
    _lost_time: float = 0.0

    @classmethod
    def open(cls, settings: TreeSettings, on_change: Callable[[], None]) -> KazooLink:
        """Begin to connect; ``on_change`` is told, on the loop, of changes of the connection and nodes."""
        link = cls(settings, on_change, loop_entrance())
        link._start()
        return link

    @property
    def servers(self) -> str:
        """Which ensemble."""
        return self._settings.servers

    @property
    def session(self) -> int | None:
        """The session, while there is a connection; each has its own number, never 0."""
        return self._session

    def connected(self) -> Kazoo:
        """The client, for making the calls of a :meth:`request`; raises ConnectionLostError."""
        if self._session is None:
            raise ConnectionLostError(self._settings.servers, "not connected")
        return self._client

    async def request(self, calls: Sequence[Callable[[], Kazoo]]) -> list[Kazoo]:
        """What each call came to, a value or kazoo's error; raises ConnectionLostError."""
        outcomes: list[Kazoo] = []
        for start in range(0, len(calls), _WINDOW):
            outcomes += await self._request_together(calls[start : start + _WINDOW])
        return outcomes

    async def revive(self) -> None:
        """Look after a connection that has been missing for a while."""
        now = anyio.current_time()
        if now - self._lost_time > self._settings.session_timeout_seconds:
            # A server refuses whoever has seen more than it holds, so one that came back empty would refuse
            # us for ever. The session has no claim on what it saw any more.
            self._client.last_zxid = 0
        has_given_up = self._client.client_state in (KeeperState.CLOSED, KeeperState.AUTH_FAILED)
        if has_given_up and now - self._start_time > _RENEW_SECONDS:
            _log.warning("Connecting to ZooKeeper anew", servers=self._settings.servers)
            await self.close()
            self._start()

    async def close(self) -> None:
        """End the session, which removes all ephemeral nodes; returns soon, even without a connection."""
        client, self._session = self._client, None
        with anyio.move_on_after(_CLOSE_SECONDS_MAX, shield=True):
            await anyio.to_thread.run_sync(_stop, client, abandon_on_cancel=True)

    def watched(self, _event: object) -> None:
        """A watch for kazoo's calls: tells ``on_change``. Called in a thread of kazoo."""
        self._enter(self._on_change)

    def _start(self) -> None:
        timeout_seconds = self._settings.session_timeout_seconds
        handler = SequentialThreadingHandler()
        # No attempt may take so long that the session expires before the last server has been tried.
        attempt_seconds = min(
            self._settings.connection_timeout_seconds, timeout_seconds / (2 * self._server_count)
        )
        handler.create_connection = partial(_connect, handler.create_connection, attempt_seconds)
        client = KazooClient(
            hosts=self._settings.servers,
            timeout=timeout_seconds,
            handler=handler,
            connection_retry=KazooRetry(max_tries=-1, max_delay=_RECONNECT_SECONDS_MAX),
            logger=_QuietLog(logging.getLogger("kazoo.client"), {}),
        )
        self._client = client
        self._start_time = self._lost_time = anyio.current_time()
        client.add_listener(partial(self._listen, client))
        client.start_async()

    @property
    def _server_count(self) -> int:
        return self._settings.servers.count(",") + 1

    async def _request_together(self, calls: Sequence[Callable[[], Kazoo]]) -> list[Kazoo]:
        batch = _Batch(len(calls), self._enter)
        # Each call wakes a thread of kazoo, which then competes for the interpreter: a hundred of them on the
        # loop would stop it for a third of a second.
        await anyio.to_thread.run_sync(batch.begin, calls)
        # Kazoo itself gives a silent server up earlier, and then every call has its error.
        with anyio.move_on_after(self._settings.session_timeout_seconds):
            await batch.is_complete.wait()
        if not batch.is_complete.is_set():
            raise ConnectionLostError(self._settings.servers, "no answer")
        for outcome in batch.outcomes:
            if isinstance(outcome, kazoo_errors.ConnectionLoss | kazoo_errors.SessionExpiredError):
                raise ConnectionLostError(self._settings.servers, reason_of(outcome))
        return batch.outcomes

    # Called in kazoo's threads.

    def _listen(self, client: Kazoo, state: str) -> None:
        identity = client.client_id if state == KazooState.CONNECTED else None
        self._enter(partial(self._state_changed, client, None if identity is None else identity[0]))

    # On the loop again.

    def _state_changed(self, client: object, session: int | None) -> None:
        if client is self._client and session != self._session:
            self._session, self._lost_time = session, anyio.current_time()
            self._on_change()


def loop_entrance() -> Enter:
    """What other threads call to have a function run soon on the loop that runs now; never raises.

    Nothing happens when the loop has ended by then.
    """
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415 - an asyncio program need not load it

        token = trio.lowlevel.current_trio_token()

        def enter_trio(function: Callable[[], None]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(function)

        return enter_trio
    import asyncio  # noqa: PLC0415 - nor the other way round

    loop = asyncio.get_running_loop()
    # No task runs the function: without this anyio would know of no loop, unless anyio.run had begun it.
    context = contextvars.copy_context()
    context.run(sniffio.current_async_library_cvar.set, "asyncio")

    def enter_asyncio(function: Callable[[], None]) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function, context=context)

    return enter_asyncio


class _Batch:
    """Requests that are on their way together. All but the constructor runs in other threads."""

    def __init__(self, size: int, enter: Enter) -> None:
        self.outcomes: list[Kazoo] = [None] * size
        self.is_complete = anyio.Event()
        self._enter = enter
        self._left = size
        self._lock = threading.Lock()

    def begin(self, calls: Sequence[Callable[[], Kazoo]]) -> None:
        for index, call in enumerate(calls):
            call().rawlink(partial(self._settle, index))

    def _settle(self, index: int, result: Kazoo) -> None:
        self.outcomes[index] = result.value if result.successful() else result.exception
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._enter(self.is_complete.set)


class _QuietLog(logging.LoggerAdapter[logging.Logger]):
    """Kazoo's log, of which only errors are news: the registrar tells the rest once."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - as the base class
        super().log(level if level >= logging.ERROR else min(level, logging.DEBUG), msg, *args, **kwargs)


def _connect(connect: Callable[..., Kazoo], seconds_max: float, **how: Kazoo) -> Kazoo:
    how["timeout"] = min(how["timeout"], seconds_max)
    return connect(**how)


def _stop(client: Kazoo) -> None:
    # A thread of kazoo that does not end in time keeps its sockets, and ends by itself.
    with suppress(kazoo_errors.KazooException, OSError):
        client.stop()
        client.close()


def reason_of(error: Exception) -> str:
    """Kazoo's error in words."""
    return str(error) or type(error).__name__.removesuffix("Error")
