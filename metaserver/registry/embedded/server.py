"""The registry's port: sockets on one side, the registry and its log on the other.

Everything happens on the loop, in handlers that the poller calls. A client that floods, or does not
read, slows only itself: no more of its requests are taken while so many of its replies are due.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from metaserver import descriptors
from metaserver.errors import DiskFullError, StorageError
from metaserver.logs import get_logger
from metaserver.registry.embedded.codes import MalformedError
from metaserver.registry.embedded.delivery import Delivery
from metaserver.registry.embedded.framing import FRAME_BYTES_MAX, Framer
from metaserver.registry.embedded.records import load
from metaserver.registry.embedded.registry import Peer, Registry, RegistryOptions, Send

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.errors import MetaServerError
    from metaserver.registry.embedded.delivery import Batch
    from metaserver.registry.embedded.journal import Journal
    from metaserver.storage import Clock

_log = get_logger(__name__)

_READABLE = select.EPOLLIN
_WRITABLE = select.EPOLLOUT
_BROKEN = select.EPOLLHUP | select.EPOLLERR
_RECEIVE_BYTES = 64 * 1024
_ACCEPTS_AT_ONCE_MAX = 8
_LINGER_SECONDS = 2.0
"""How long a connection that was told to go may take to read what it was sent."""
_GREETING_SECONDS = 10.0
"""How long a connection may take to ask for a session."""
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Poller(Protocol):
    """Calls handlers of descriptors that are ready."""

    def register(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(events)`` whenever one of the events holds, or the peer is gone."""
        ...

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events from now on."""
        ...

    def unregister(self, descriptor: int) -> None:
        """Forget the descriptor."""
        ...


@attrs.frozen(kw_only=True)
class ServerOptions:
    """Limits of the port."""

    registry: RegistryOptions = attrs.Factory(RegistryOptions)
    own_node: str | None = None
    """The ephemeral node by which the owner of the port claims its name. A start ends the session that has
    it: it can only be the owner's last one, or that of the one whose copy this is."""
    own_address: bytes | None = None
    """What the owner's nodes hold beside that one, and nobody else's. A start ends the sessions that have
    such a node: that of a slave that is master now."""
    connections_max: int = 10_000
    frame_bytes_max: int = FRAME_BYTES_MAX
    outstanding_requests_max: int = 1000
    """Of one connection: replies not yet sent."""
    outstanding_bytes_max: int = 1024 * 1024
    """Of one connection; at least one reply is always let through."""
    unsent_bytes_max: int = 16 * 1024 * 1024
    """A connection that has so much waiting (watch events, for they are not asked for) is closed."""
    compaction_bytes: int = 8 * 1024 * 1024
    """A snapshot is written when so much was appended since the last."""


@attrs.frozen
class RegistryStatistics:
    """The registry in figures."""

    connections: int
    sessions: int
    watches: int
    nodes: int
    zxid: int
    log_bytes: int
    """What a start would have to read behind the last snapshot."""
    failure: str | None
    """Why the registry has stopped serving, if it has."""


class RegistryServer:
    """Serves the registry that a journal holds, on one listening socket."""

    def __init__(
        self,
        journal: Journal,
        listener: socket.socket,
        poller: Poller,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        options: ServerOptions | None = None,
    ) -> None:
        """Nothing happens before :meth:`load` and :meth:`serve`."""
        self.options = options or ServerOptions()
        self._journal = journal
        self._listener = listener
        self._poller = poller
        self._clock = clock
        self._random_bytes = random_bytes
        self._connections: dict[Peer, _Connection] = {}
        self._delivery = Delivery()
        self._registry: Registry
        self._retry: Batch | None = None
        """What did not fit on the disk; tried again with every tick."""
        self._failure: MetaServerError | None = None
        """Why nothing is served until the broker restarts."""
        self._is_broken = False
        """Whether the tree can no longer be trusted; the next tick reads it from the log again."""
        self._appended = trio.Event()
        """Set while no append is under way."""
        self._appended.set()
        self._is_pumping = False

    async def load(self) -> None:
        """Read the journal. Raises StorageError and MalformedError where it cannot be read."""
        tree = await trio.to_thread.run_sync(lambda: load(self._journal.replay()))
        self._registry = Registry(tree, self.options.registry, self._clock, self._random_bytes)
        self._delivery = Delivery()
        self._retry = None

    async def serve(self) -> None:
        """Accept and answer until cancelled; leaves no connection open.

        The journal must have been read, and the poller must be running.
        """
        self._registry.begin_epoch()
        if self.options.own_node is not None:
            self._registry.end_session_of(self.options.own_node)
            if self.options.own_address is not None:
                self._registry.end_sessions_beside(self.options.own_node, self.options.own_address)
        self.pump()
        self._poller.register(self._listener.fileno(), _READABLE, self._accept)
        try:
            while True:
                await trio.sleep(self.options.registry.tick_ms / 1000)
                if self._is_broken and self._appended.is_set():
                    await self._load_again()
                self._tick()
        finally:
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            self._close_all()

    async def wait_until_idle(self) -> None:
        """Returns when no append is under way: then the log may be closed. The poller must be running."""
        await self._appended.wait()

    def renew(self) -> None:
        """Have the log hold nothing of what it holds now: two snapshots. Nothing while appends wait."""
        if self._is_serving and self._delivery.is_idle:
            self._registry.compact()
            self._registry.compact()
            self.pump()

    def statistics(self) -> RegistryStatistics:
        """What there is now; only after :meth:`load`."""
        registry = self._registry
        return RegistryStatistics(
            connections=len(self._connections),
            sessions=registry.session_count,
            watches=registry.watch_count,
            nodes=len(registry.tree.nodes),
            zxid=registry.tree.zxid,
            log_bytes=self._journal.uncompacted_bytes,
            failure=None if self._failure is None else str(self._failure),
        )

    # The connections' side.

    def now(self) -> float:
        """Seconds, for ages of connections."""
        return self._clock.monotonic_seconds()

    def received(self, peer: Peer, frame: bytes) -> None:
        """A connection has a request."""
        self._registry.received(peer, frame)
        self._collect()

    def pump(self) -> None:
        """Append what is due and send what may leave, until neither is left. Does not raise."""
        if self._is_pumping:
            return  # Called back from below: the loop looks again.
        self._is_pumping = True
        try:
            while self._is_serving and self._pump_once():
                pass
        except Exception:  # noqa: BLE001 - a fault in here must not end the broker
            self.broke()
        finally:
            self._is_pumping = False

    def broke(self) -> None:
        """Something unexpected was raised (and is logged here): trust nothing but the log."""
        _log.exception("Registry failed, and begins again from its log")
        self._is_broken = True
        self._close_all()

    def forget(self, connection: _Connection) -> None:
        """A connection is closed."""
        self._connections.pop(connection.peer, None)
        self._registry.disconnected(connection.peer)

    # The journal's side.

    @property
    def _is_serving(self) -> bool:
        return self._failure is None and not self._is_broken

    async def _load_again(self) -> None:
        try:
            await self.load()
        except (StorageError, MalformedError) as error:
            self._fail(error)
        self._is_broken = False

    def _collect(self) -> None:
        effects = self._registry.take_effects()
        for effect in effects:
            if isinstance(effect, Send) and (connection := self._connections.get(effect.peer)) is not None:
                connection.expect(len(effect.frame))
        self._delivery.add(effects)

    def _pump_once(self) -> bool:
        """Whether anything was done."""
        self._collect()
        batch = self._delivery.next_batch()
        if batch is not None:
            self._append(batch)
        touched: dict[_Connection, None] = {}
        for effect in self._delivery.released():
            connection = self._connections.get(effect.peer)
            if connection is None:
                continue
            touched[connection] = None
            if isinstance(effect, Send):
                connection.send(effect.frame)
            else:
                connection.close_when_sent()
        for connection in touched:
            connection.flush()
        return batch is not None or bool(touched)

    def _append(self, batch: Batch) -> None:
        self._appended = trio.Event()

        def done(error: StorageError | None) -> None:
            self._appended.set()
            if error is None:
                self._delivery.durable(batch)
                self.pump()
            elif isinstance(error, DiskFullError):
                _log.warning("Registry waits for room on the disk", reason=str(error))
                self._retry = batch
            else:
                self._fail(error)

        append = self._journal.compact if batch.is_snapshot else self._journal.append
        append(batch.records, done)

    def _fail(self, error: MetaServerError) -> None:
        """The tree and the log differ for ever: nobody may see it any more."""
        _log.error("Registry stops serving until the broker restarts", reason=str(error))
        self._failure = error
        self._close_all()

    def _close_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()

    def _tick(self) -> None:
        if not self._is_serving:
            return
        if self._retry is not None:
            batch, self._retry = self._retry, None
            self._append(batch)
        try:
            self._registry.tick()
            if self._journal.uncompacted_bytes > self.options.compaction_bytes and self._delivery.is_idle:
                self._registry.compact()
        except Exception:  # noqa: BLE001 - the same
            self.broke()
        self.pump()
        now = self.now()
        for connection in list(self._connections.values()):
            connection.close_if_stale(now)
        self._poller.modify(self._listener.fileno(), _READABLE)

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_AT_ONCE_MAX):
            try:
                accepted, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    _log.warning("Registry cannot accept connections for now", reason=str(error))
                    self._poller.modify(self._listener.fileno(), 0)  # Until the next tick.
                return
            is_full = len(self._connections) >= self.options.connections_max
            if is_full or not self._is_serving or descriptors.is_reserved(accepted.fileno()):
                accepted.close()
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = self._registry.connected(address[0])
            self._connections[peer] = _Connection(self, self._poller, accepted, peer)


class _Connection:
    """One client's socket."""

    def __init__(self, server: RegistryServer, poller: Poller, accepted: socket.socket, peer: Peer) -> None:
        self.peer = peer
        self._server = server
        self._poller = poller
        self._socket = accepted
        self._framer = Framer(server.options.frame_bytes_max)
        self._frames: deque[bytes] = deque()
        """Taken from the socket, not yet acted on."""
        self._outgoing = bytearray()
        self._due_count = 0
        """Frames the registry has made that wait for the log."""
        self._due_bytes = 0
        self._is_open = True
        self._is_blocked = False
        """The socket takes no more; it will say when it does."""
        self._is_closing = False
        self._since = server.now()
        """When the connection, or its end, began."""
        poller.register(accepted.fileno(), _READABLE, self._on_ready)

    def expect(self, size_bytes: int) -> None:
        """A frame of this size is on its way to :meth:`send`."""
        self._due_count += 1
        self._due_bytes += size_bytes

    def send(self, frame: bytes) -> None:
        """Put a frame behind those not yet sent."""
        self._due_count -= 1
        self._due_bytes -= len(frame)
        self._outgoing += frame

    def close_when_sent(self) -> None:
        """Act on nothing more; close when everything is sent."""
        self._is_closing = True
        self._frames.clear()
        self._since = self._server.now()

    def flush(self) -> None:
        """Send what the socket takes now, and go on with what waited for that."""
        if self._outgoing and not self._is_blocked:
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            del self._outgoing[:sent]
            self._is_blocked = bool(self._outgoing)
        if len(self._outgoing) > self._server.options.unsent_bytes_max:
            _log.warning("Registry closes a connection that takes no replies", peer=self.peer.address)
            self.close()
            return
        if self._is_closing and not self._outgoing:
            self._finish()
        if self._is_open:
            self._act()
            self._want()

    def close(self) -> None:
        """Close now."""
        if self._is_open:
            self._is_open = False
            self._poller.unregister(self._socket.fileno())
            self._socket.close()
            self._server.forget(self)

    def close_if_stale(self, now: float) -> None:
        """Close one that was told to go and does not, or that never asked for a session."""
        limit_seconds = _LINGER_SECONDS if self._is_closing else _GREETING_SECONDS
        if (self._is_closing or not self.peer.session_id) and now - self._since > limit_seconds:
            self.close()

    def _on_ready(self, events: int) -> None:
        try:
            if events & _WRITABLE:
                self._is_blocked = False
                self.flush()
            if self._is_open and events & (_READABLE | _BROKEN):
                self._receive()
        except Exception:  # noqa: BLE001 - a fault in here must not end the broker
            self._server.broke()
        self._server.pump()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()  # What it asked for and has not been told does not concern it any more.
            return
        if self._is_closing:
            return
        try:
            self._frames += self._framer.feed(data)
        except MalformedError as error:
            _log.info("Registry closes a connection", peer=self.peer.address, reason=str(error))
            self.close()
            return
        self._act()
        self._want()

    def _act(self) -> None:
        options = self._server.options
        while (
            self._frames
            and self.peer.is_open
            and self._due_count < options.outstanding_requests_max
            and self._due_bytes + len(self._outgoing) <= options.outstanding_bytes_max
        ):
            self._server.received(self.peer, self._frames.popleft())

    def _want(self) -> None:
        if not self._is_open:
            return
        wants_more = self._is_closing or not self._frames
        events = (_READABLE if wants_more else 0) | (_WRITABLE if self._is_blocked else 0)
        self._poller.modify(self._socket.fileno(), events)

    def _finish(self) -> None:
        """Everything is sent: tell the peer, and wait for its end, so that it is not cut off reading."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
