"""A ZooKeeper as trio sees it: read nodes, carry out actions, hear of changes. Kazoo ends here.

Kazoo has threads of its own: one that holds the connection, and two for callbacks. What they report
re-enters the trio loop through its token; nothing here waits for them on the loop. Every wait is bounded.

Kazoo keeps the session alive, finds another server of the ensemble, and opens a new session when the old one
has expired. What it does not do, this module adds: a server that does not answer the connection attempt is
given up in time for the next to be tried; one that came back without its data is made friends with; a kazoo
whose thread has died is replaced; what it logs at each attempt of a long outage is debugging, not a warning.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs
import trio
from kazoo import exceptions as kazoo_errors
from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.states import KazooState, KeeperState
from kazoo.retry import KazooRetry

from metaserver.errors import MetaServerError
from metaserver.logs import get_logger
from metaserver.registry.paths import ancestors
from metaserver.registry.registration import Create, Delete, ExistingNode, Retire, Store, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.registry.registration import Action

_log = get_logger(__name__)

_Kazoo: TypeAlias = Any
"""What kazoo hands out and takes: it has no types. None of it leaves this module."""

_WINDOW = 100
"""Requests in flight. Kazoo is told of each by a byte in a socket, which must never be full."""
_RECONNECT_SECONDS_MAX = 3.0
"""Between two rounds of connection attempts."""
_RENEW_SECONDS = 30.0
"""A kazoo that has had so long since its start and is not even connecting is replaced."""
_CLOSE_SECONDS_MAX = 2.0


class ZooKeeperError(MetaServerError):
    """ZooKeeper did not do what was asked."""


@attrs.define
class ConnectionLostError(ZooKeeperError):
    """There is no connection, or it broke; whether the request was carried out is unknown."""

    servers: str
    reason: str

    def __str__(self) -> str:
        """Servers and reason."""
        return f"no connection to ZooKeeper {self.servers}: {self.reason}"


@attrs.define
class NodeFailedError(ZooKeeperError):
    """ZooKeeper refused something about a node."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Node and reason."""
        return f"ZooKeeper node {self.path}: {self.reason}"


class NodeTree(Protocol):
    """What a registrar needs of a ZooKeeper.

    Requests are carried out in the order in which they are made, also those of a call that was cancelled:
    they may still be on their way.
    """

    @property
    def session(self) -> int | None:
        """The session, while there is a connection; each has its own number, never 0."""

    async def read(self, paths: Sequence[str], *, is_watched: bool = False) -> dict[str, ExistingNode | None]:
        """The nodes; None where there is none. Watched: a change of one that exists is told, once.

        Raises ConnectionLostError and NodeFailedError.
        """

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out every action, whatever becomes of the others.

        Raises ConnectionLostError, or the NodeFailedError of the first that failed.
        """

    async def revive(self) -> None:
        """Look after a connection that has been missing for a while."""

    async def close(self) -> None:
        """End the session, which removes all ephemeral nodes; returns soon, even without a connection."""


@attrs.frozen(kw_only=True)
class TreeSettings:
    """Which ZooKeeper, and how long it may be silent."""

    servers: str
    """``HOST:PORT,HOST:PORT``, without a path."""
    session_timeout_seconds: float
    connection_timeout_seconds: float
    """For one attempt at one server."""


@attrs.define(eq=False)
class KazooTree:
    """A NodeTree over the network. Make it on the trio loop with :meth:`open`."""

    _settings: TreeSettings
    _on_change: Callable[[], None]
    _token: trio.lowlevel.TrioToken
    _client: _Kazoo = None
    _session: int | None = None
    _start_time: float = 0.0
    _lost_time: float = 0.0

    @classmethod
    def open(cls, settings: TreeSettings, on_change: Callable[[], None]) -> KazooTree:
        """Begin to connect; ``on_change`` is told, on the loop, of changes of the connection and nodes."""
        tree = cls(settings, on_change, trio.lowlevel.current_trio_token())
        tree._start()
        return tree

    @property
    def session(self) -> int | None:
        """See NodeTree."""
        return self._session

    async def read(self, paths: Sequence[str], *, is_watched: bool = False) -> dict[str, ExistingNode | None]:
        """See NodeTree."""
        watch = self._watched if is_watched else None
        client = self._connected()
        outcomes = await self._request([partial(client.get_async, path, watch) for path in paths])
        found: dict[str, ExistingNode | None] = {}
        for path, outcome in zip(paths, outcomes, strict=True):
            if isinstance(outcome, kazoo_errors.NoNodeError):
                found[path] = None
            elif isinstance(outcome, Exception):
                raise NodeFailedError(path, _reason(outcome))
            else:
                data, stat = outcome
                found[path] = ExistingNode(data or b"", stat.ephemeralOwner)
        return found

    async def apply(self, actions: Sequence[Action]) -> None:
        """See NodeTree."""
        client = self._connected()
        failures: list[NodeFailedError] = []
        orphans: list[Create | Store] = []
        followers: list[tuple[str, Callable[[], _Kazoo]]] = []
        outcomes = await self._request([partial(_begin, client, action) for action in actions])
        for action, outcome in zip(actions, outcomes, strict=True):
            match action, outcome:
                case Create() | Store(), kazoo_errors.NoNodeError():
                    orphans.append(action)
                case Delete() | Retire(), kazoo_errors.NoNodeError():
                    pass
                case Retire(path), kazoo_errors.NotEmptyError():
                    followers.append((path, partial(client.set_async, path, b"")))
                case _, Exception():
                    failures.append(NodeFailedError(action.path, _reason(outcome)))
        # Parents first: requests are carried out in their order. That one exists already is no failure.
        parents = sorted({parent for action in orphans for parent in ancestors(action.path)})
        await self._request([partial(client.create_async, parent, None) for parent in parents])
        for action in orphans:
            # A node to be stored may just have been made, as the parent of another.
            make = _begin if action.path in parents else _make
            followers.append((action.path, partial(make, client, action)))
        outcomes = await self._request([begin for _path, begin in followers])
        for (path, _begin_it), outcome in zip(followers, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failures.append(NodeFailedError(path, _reason(outcome)))
        if failures:
            raise failures[0]

    async def revive(self) -> None:
        """See NodeTree."""
        now = trio.current_time()
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
        """See NodeTree."""
        client, self._session = self._client, None
        with trio.move_on_after(_CLOSE_SECONDS_MAX) as scope:
            scope.shield = True
            await trio.to_thread.run_sync(_stop, client, abandon_on_cancel=True)

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
        self._start_time = self._lost_time = trio.current_time()
        client.add_listener(partial(self._listen, client))
        client.start_async()

    @property
    def _server_count(self) -> int:
        return self._settings.servers.count(",") + 1

    def _connected(self) -> _Kazoo:
        if self._session is None:
            raise ConnectionLostError(self._settings.servers, "not connected")
        return self._client

    async def _request(self, calls: Sequence[Callable[[], _Kazoo]]) -> list[_Kazoo]:
        """What each call came to, a value or kazoo's error; raises ConnectionLostError."""
        outcomes: list[_Kazoo] = []
        for start in range(0, len(calls), _WINDOW):
            outcomes += await self._request_together(calls[start : start + _WINDOW])
        return outcomes

    async def _request_together(self, calls: Sequence[Callable[[], _Kazoo]]) -> list[_Kazoo]:
        batch = _Batch(len(calls), self._enter)
        # Each call wakes a thread of kazoo, which then competes for the interpreter: a hundred of them on the
        # loop would stop it for a third of a second.
        await trio.to_thread.run_sync(batch.begin, calls)
        # Kazoo itself gives a silent server up earlier, and then every call has its error.
        with trio.move_on_after(self._settings.session_timeout_seconds):
            await batch.is_complete.wait()
        if not batch.is_complete.is_set():
            raise ConnectionLostError(self._settings.servers, "no answer")
        for outcome in batch.outcomes:
            if isinstance(outcome, kazoo_errors.ConnectionLoss | kazoo_errors.SessionExpiredError):
                raise ConnectionLostError(self._settings.servers, _reason(outcome))
        return batch.outcomes

    # Called in kazoo's threads.

    def _listen(self, client: _Kazoo, state: str) -> None:
        identity = client.client_id if state == KazooState.CONNECTED else None
        self._enter(partial(self._state_changed, client, None if identity is None else identity[0]))

    def _watched(self, _event: object) -> None:
        self._enter(self._on_change)

    def _enter(self, function: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    # On the loop again.

    def _state_changed(self, client: object, session: int | None) -> None:
        if client is self._client and session != self._session:
            self._session, self._lost_time = session, trio.current_time()
            self._on_change()


class _Batch:
    """Requests that are on their way together. All but the constructor runs in other threads."""

    def __init__(self, size: int, enter: Callable[[Callable[[], None]], None]) -> None:
        self.outcomes: list[_Kazoo] = [None] * size
        self.is_complete = trio.Event()
        self._enter = enter
        self._left = size
        self._lock = threading.Lock()

    def begin(self, calls: Sequence[Callable[[], _Kazoo]]) -> None:
        for index, call in enumerate(calls):
            call().rawlink(partial(self._settle, index))

    def _settle(self, index: int, result: _Kazoo) -> None:
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


def _begin(client: _Kazoo, action: Action) -> _Kazoo:
    match action:
        case Create(path, data):
            return client.create_async(path, data, ephemeral=True)
        case Write(path, data) | Store(path, data):
            return client.set_async(path, data)
        case Delete(path) | Retire(path):
            return client.delete_async(path)


def _make(client: _Kazoo, action: Create | Store) -> _Kazoo:
    return client.create_async(action.path, action.data, ephemeral=isinstance(action, Create))


def _connect(connect: Callable[..., _Kazoo], seconds_max: float, **how: _Kazoo) -> _Kazoo:
    how["timeout"] = min(how["timeout"], seconds_max)
    return connect(**how)


def _stop(client: _Kazoo) -> None:
    # A thread of kazoo that does not end in time keeps its sockets, and ends by itself.
    with suppress(kazoo_errors.KazooException, OSError):
        client.stop()
        client.close()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__.removesuffix("Error")
