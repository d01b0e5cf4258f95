"""A network in virtual time: delay, connections that are lost, ways that are cut, peers that vanish.

A connection is two directions; each keeps its order, as TCP does. What is sent into a cut way is held and
comes when the way is open again, unless the connection has been given up meanwhile. A machine without power
answers nothing; one whose process is gone answers with a reset.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio
from trio.abc import SocketFactory

from metaserver.broker.poller import BROKEN, READABLE, WRITABLE, Poller
from metaserver.broker.transport import SocketTransport
from tests.simulation.world import current_process

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from random import Random

    from metaserver.message import Buffer
    from metaserver.storage import File
    from tests.simulation.world import Process, World

_WINDOW_BYTES = 128 * 1024
"""Sent and not read by the peer: more finds no room."""
_DELAY_SECONDS = (0.0001, 0.002)
_SLOW_SECONDS = (0.02, 0.3)
_SLOW_SHARE = 0.01
_SPLIT_SHARE = 0.1
_SYN_SECONDS = 1.0
_DOWN_SECONDS_MAX = 8.0

_FIN = object()
_RESET = object()


class Network:
    """Machines by address, and what lies between them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random: Random = world.random("network")
        self.cuts: set[tuple[str, str]] = set()
        """Ways, from and to, on which nothing comes through."""
        self.powered: dict[str, bool] = {}
        """By address: whether anybody answers there, if only with a reset."""
        self.listeners: dict[tuple[str, int], SimListener] = {}
        self.endpoints: dict[int, Endpoint] = {}
        """Every open end, in the order of their making."""
        self.is_delayed = False
        """While set, everything takes as long as the slowest."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after a cut or its end."""
        self._next_descriptor = 1000

    def descriptor(self) -> int:
        self._next_descriptor += 1
        return self._next_descriptor

    def delay(self) -> float:
        is_slow = self.is_delayed or self.random.random() < _SLOW_SHARE
        return self.random.uniform(*(_SLOW_SECONDS if is_slow else _DELAY_SECONDS))

    def is_open(self, source: str, target: str) -> bool:
        return (source, target) not in self.cuts

    # Faults.

    def cut(self, source: str, target: str) -> None:
        """Let nothing through in this direction."""
        self.cuts.add((source, target))
        self.on_change()

    def heal(self, kept: Collection[tuple[str, str]] = ()) -> None:
        """Open every way but these."""
        self.cuts.intersection_update(kept)
        for endpoint in list(self.endpoints.values()):
            endpoint.pump()
        self.on_change()

    def reset(self, address: str) -> int:
        """Break the connections of a machine, as a router does that forgets them; says how many."""
        found = [end for end in self.endpoints.values() if end.process.address == address]
        for endpoint in found:
            peer = endpoint.peer
            endpoint.arrived(_RESET)
            if peer is not None:
                peer.arrived(_RESET)
        return len(found)

    def unplug(self, process: Process, *, says_goodbye: bool) -> None:
        """A process is gone: its machine resets its connections, or says nothing any more."""
        for key, listener in list(self.listeners.items()):
            if listener.process is process:
                del self.listeners[key]
        for endpoint in [end for end in self.endpoints.values() if end.process is process]:
            if says_goodbye:
                endpoint.transmit(_RESET)
            endpoint.forget()

    async def connect(self, process: Process, address: str, port: int) -> Endpoint:
        """Raises OSError where the machine says no; waits as long as nobody says anything."""
        pause_seconds = _SYN_SECONDS
        while True:
            await trio.sleep(self.delay())
            if self.is_open(process.address, address) and self.powered.get(address):
                await trio.sleep(self.delay())
                if self.is_open(address, process.address):
                    break
            await trio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _DOWN_SECONDS_MAX)
        listener = self.listeners.get((address, port))
        if listener is None or not process.is_alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        own, theirs = Endpoint(self, process, address), Endpoint(self, listener.process, process.address)
        own.peer, theirs.peer = theirs, own
        listener.arrived(theirs)
        return own


class Endpoint:
    """One end of a connection; also the socket that a server accepts."""

    def __init__(self, network: Network, process: Process, peer_address: str) -> None:
        self.network = network
        self.process = process
        self.peer: Endpoint | None = None
        self.peer_address = peer_address
        self.on_change: Callable[[], None] = lambda: None
        """Called when it may be readable or writable."""
        self.is_finished = False
        """Whether this end has said that nothing more comes."""
        self._descriptor = network.descriptor()
        self._incoming = bytearray()
        self._has_ended = False
        self._is_reset = False
        self._is_open = True
        self._outstanding = 0
        """Bytes sent that the peer has not read."""
        self._queue: deque[tuple[float, Any]] = deque()
        """On their way to the peer: when they arrive, and what."""
        self._last_arrival = 0.0
        network.endpoints[self._descriptor] = self

    # As a socket.

    def fileno(self) -> int:
        return self._descriptor if self._is_open else -1

    def setblocking(self, is_blocking: bool) -> None:
        """Never, here."""

    def setsockopt(self, *options: int) -> None:
        """None has an effect here."""

    def recv(self, size_max: int) -> bytes:
        if self._is_reset or not self._is_open:
            raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
        if not self._incoming:
            if self._has_ended:
                return b""
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        data = bytes(self._incoming[:size_max])
        del self._incoming[:size_max]
        if self.peer is not None:
            self.peer.was_read(len(data))
        return data

    def send(self, data: Buffer, flags: int = 0) -> int:
        if self._is_reset or not self._is_open or self.is_finished:
            raise BrokenPipeError(errno.EPIPE, "broken pipe")
        size = min(len(data), _WINDOW_BYTES - self._outstanding)
        if size <= 0:
            raise BlockingIOError(errno.EAGAIN, "no room")
        self._outstanding += size
        content = bytes(data[:size])
        random = self.network.random
        if size > 1 and random.random() < _SPLIT_SHARE:
            middle = random.randrange(1, size)
            self.transmit(content[:middle])
            content = content[middle:]
        self.transmit(content)
        return size

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD and not self.is_finished and self._is_open:
            self.is_finished = True
            self.transmit(_FIN)

    def close(self) -> None:
        if not self._is_open:
            return
        if self._incoming and not self._is_reset:
            self.transmit(_RESET)
        elif not self.is_finished and not self._is_reset:
            self.transmit(_FIN)
        self.forget()

    # Between the ends.

    @property
    def readiness(self) -> int:
        """The events of a poller that hold."""
        events = 0
        if self._incoming or self._has_ended or self._is_reset:
            events |= READABLE
        if self._outstanding < _WINDOW_BYTES or self._is_reset:
            events |= WRITABLE
        if self._is_reset:
            events |= BROKEN
        return events

    def forget(self) -> None:
        """It belongs to nobody any more."""
        self._is_open = False
        self.network.endpoints.pop(self._descriptor, None)
        self.on_change()

    def transmit(self, item: object) -> None:
        """On its way, behind what was sent before."""
        now = trio.current_time()
        self._last_arrival = max(self._last_arrival, now + self.network.delay())
        self._queue.append((self._last_arrival, item))
        self.network.world.after(self._last_arrival - now, self.pump)

    def pump(self) -> None:
        """Deliver what is due, as far as the way is open."""
        now = trio.current_time()
        while self._queue and self._queue[0][0] <= now:
            if not self.network.is_open(self.process.address, self.peer_address):
                return
            item = self._queue.popleft()[1]
            if self.peer is not None:
                self.peer.arrived(item)

    def arrived(self, item: object) -> None:
        if not self._is_open:
            is_answered = item is not _RESET and self.network.powered.get(self.process.address)
            if is_answered and self.peer is not None and self.peer.fileno() >= 0:
                # Nobody has this connection here, and says so.
                self.transmit(_RESET)
            return
        if item is _RESET:
            self._is_reset = True
            self._incoming.clear()
        elif item is _FIN:
            self._has_ended = True
        else:
            self._incoming += cast("bytes", item)
        self.on_change()

    def was_read(self, size: int) -> None:
        self._outstanding -= size
        self.on_change()


class SimListener:
    """A listening socket."""

    def __init__(self, network: Network, process: Process, port: int) -> None:
        self.process = process
        self.on_change: Callable[[], None] = lambda: None
        self._network = network
        self._key = (process.address, port)
        self._descriptor = network.descriptor()
        self._backlog: deque[Endpoint] = deque()
        network.listeners[self._key] = self

    @property
    def readiness(self) -> int:
        return READABLE if self._backlog else 0

    def fileno(self) -> int:
        return self._descriptor

    def accept(self) -> tuple[Endpoint, tuple[str, int]]:
        if not self._backlog:
            raise BlockingIOError(errno.EAGAIN, "nobody there")
        endpoint = self._backlog.popleft()
        return endpoint, (endpoint.peer_address, endpoint.fileno())

    def arrived(self, endpoint: Endpoint) -> None:
        self._backlog.append(endpoint)
        self.on_change()

    def close(self) -> None:
        if self._network.listeners.get(self._key) is self:
            del self._network.listeners[self._key]
        for endpoint in self._backlog:
            endpoint.close()


@attrs.define
class _Registered:
    source: Endpoint | SimListener
    events: int
    handler: Callable[[int], None]


class SimPoller(Poller):
    """Calls the handlers of one process's ends; level-triggered, as the real one."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self._registered: dict[int, _Registered] = {}
        self._sources: dict[int, Endpoint | SimListener] = {}
        self._poked: dict[int, None] = {}
        self._wake = trio.Event()

    def introduce(self, source: Endpoint | SimListener) -> None:
        """Before its descriptor is registered."""
        self._sources[source.fileno()] = source

    def register(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        source = self._sources.get(descriptor) or self._network.endpoints[descriptor]
        self._registered[descriptor] = _Registered(source, events, handler)
        source.on_change = lambda: self._poke(descriptor)
        self._poke(descriptor)

    def modify(self, descriptor: int, events: int) -> None:
        self._registered[descriptor].events = events
        self._poke(descriptor)

    def unregister(self, descriptor: int) -> None:
        source = self._registered.pop(descriptor).source
        source.on_change = lambda: None

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            poked, self._poked = self._poked, {}
            for descriptor in poked:
                found = self._registered.get(descriptor)
                if found is None or not self._process.is_alive:
                    continue
                ready = found.source.readiness & (found.events | BROKEN)
                if ready:
                    found.handler(ready)
                    self._poke(descriptor)

    def close(self) -> None:
        """Nothing is held."""

    def _poke(self, descriptor: int) -> None:
        if descriptor in self._registered:
            self._poked[descriptor] = None
            self._wake.set()


class SimTransport(SocketTransport):
    """The real one, but for the call that no simulated file knows."""

    def __init__(self, connected: socket.socket, peer: str, poller: Poller) -> None:
        super().__init__(connected, peer, poller)
        self._connected = connected

    def send_file_nowait(self, file: File, position: int, size: int) -> int:
        return self._connected.send(file.read(size, position))


class SimSocket:
    """What a client has in the place of trio's socket."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._process = current_process.get()
        self._end: Endpoint | None = None
        self._peer = ("", 0)
        self._is_closed = False
        self._change = trio.Event()

    family = socket.AF_INET

    @property
    def _sock(self) -> SimSocket:
        """What anyio asks for addresses."""
        return self

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def setsockopt(self, *options: int) -> None:
        """None has an effect here."""

    def fileno(self) -> int:
        return -1 if self._is_closed else 1

    async def connect(self, address: tuple[str, int]) -> None:
        self._peer = address
        self._end = await self._network.connect(self._process, *address)
        self._end.on_change = self._changed

    async def recv(self, size_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._checked().recv(size_max)
            except BlockingIOError:
                await self._wait()

    async def send(self, data: Buffer) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._checked().send(data)
            except BlockingIOError:
                await self._wait()

    def shutdown(self, how: int) -> None:
        self._checked().shutdown(how)

    def close(self) -> None:
        self._is_closed = True
        if self._end is not None:
            self._end.close()
        self._changed()

    def _checked(self) -> Endpoint:
        if self._is_closed or self._end is None:
            raise trio.ClosedResourceError
        return self._end

    def _changed(self) -> None:
        self._change.set()

    async def _wait(self) -> None:
        self._change = trio.Event()
        await self._change.wait()


class SimSockets(SocketFactory):
    """Hands the simulated network to whoever asks trio for a socket."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def socket(self, *kind: object) -> Any:  # noqa: ANN401 - it stands for a SocketType, which has no constructor
        return SimSocket(self._network)
