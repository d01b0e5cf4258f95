"""One connection to one broker, many requests in flight. Runs on trio and on asyncio (anyio).

Requests are matched to replies by their opaque. A request that is cancelled or times out leaves the
connection usable: its reply is dropped when it comes; whether the broker acted on it is unknown.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import anyio
import attrs
from anyio.abc import SocketAttribute

from metaserver.client.messages import (
    Batch,
    BatchResult,
    Fetched,
    Message,
    Moved,
    NothingThere,
    PutResult,
)
from metaserver.client.scope import background_tasks
from metaserver.client.servers import format_address
from metaserver.errors import (
    BrokerUnreachableError,
    ClientError,
    ProtocolError,
    ReplyError,
    RequestTimeoutError,
)
from metaserver.message import join_attribute
from metaserver.names import MAX_OFFSET
from metaserver.protocol import (
    ReplyDecoder,
    Result,
    Status,
    Value,
    encode_get,
    encode_offset_query,
    encode_put,
    encode_put_batch,
    encode_stats,
    encode_version,
)
from metaserver.registry.paths import parse_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from anyio.abc import SocketStream

Reply: TypeAlias = Result | Value

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
FETCH_BYTES = 1024 * 1024
FETCH_BYTES_MAX = 64 * 1024 * 1024
FOLLOW_WAIT_MS = 10_000
NOTHING_SECONDS = 0.1
"""Between an answer that there is nothing, and the next question of who follows."""
DEFAULT_GROUP = "meta-client"

_RECEIVE_BYTES = 256 * 1024
_OUTGOING_BYTES_MAX = 4 * 1024 * 1024
_OPAQUE_MAX = 2**31 - 1
_PORT_MAX = 65535


@attrs.define(eq=False)
class PendingReply:
    """A request whose reply has not come yet."""

    _event: anyio.Event = attrs.Factory(anyio.Event)
    _outcome: Reply | ClientError = attrs.field(init=False)

    def settle(self, outcome: Reply | ClientError) -> None:
        """The reply is here, or will never come."""
        self._outcome = outcome
        self._event.set()

    async def wait(self) -> Reply:
        """The reply; raises BrokerUnreachableError when the connection broke first."""
        await self._event.wait()
        if isinstance(self._outcome, ClientError):
            raise self._outcome
        return self._outcome


class BrokerConnection:
    """Requests to one broker; made by :func:`connect`."""

    def __init__(self, stream: SocketStream, address: str) -> None:
        """Use :func:`connect` instead."""
        self.address = address
        self.extensions: frozenset[str] = frozenset()
        """What the broker's version reply announces: ``long-poll``, ``put-batch``, ``replica-ack``."""
        self.version = ""
        self._stream = stream
        self._decoder = ReplyDecoder()
        self._waiting: dict[int, Callable[[Reply | ClientError], None]] = {}
        self._last_opaque = 0
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._something_to_send = anyio.Event()
        self._room = anyio.Event()
        self._broken: BrokerUnreachableError | None = None
        self._has_broken = anyio.Event()
        self._sent_opaque = 0
        """Of the newest request that was given to the socket."""
        self._heard_time = 0.0
        """When anything at all was received last."""

    @property
    def is_local(self) -> bool:
        """Whether the broker is reached over the loopback of this machine."""
        peer = self._stream.extra(SocketAttribute.remote_address, ("",))  # noqa: S610 - no Django here
        return is_loopback(str(peer[0]))

    @property
    def is_broken(self) -> bool:
        """Whether it can no longer be used."""
        return self._broken is not None

    @property
    def outstanding(self) -> int:
        """Requests whose replies are due."""
        return len(self._waiting)

    async def wait_broken(self) -> BrokerUnreachableError:
        """Returns, with the reason, when the connection has broken."""
        await self._has_broken.wait()
        if self._broken is None:
            raise AssertionError("the event is set behind the reason")
        return self._broken

    def break_off(self, reason: str) -> None:
        """Use it no more: every request under way is settled with BrokerUnreachableError now."""
        self._broken = self._broken or BrokerUnreachableError(self.address, reason)
        self._has_broken.set()
        waiting, self._waiting = self._waiting, {}
        # What was never given to the socket has certainly not been acted on.
        unsent = (self._last_opaque - self._sent_opaque) % _OPAQUE_MAX
        never_sent = BrokerUnreachableError(self.address, self._broken.reason, was_sent=False)
        for opaque, settle in waiting.items():
            is_unsent = (self._last_opaque - opaque) % _OPAQUE_MAX < unsent
            settle(never_sent if is_unsent else self._broken)
        self._room.set()

    # The primitive: everything else is built on it.

    def submit(self, encode: Callable[[int], bytes], settle: Callable[[Reply | ClientError], None]) -> None:
        """Queue a request and return; ``settle`` is called once, with the reply or why there is none.

        ``encode`` is given the request's opaque and returns the frame.
        """
        if self._broken is not None:
            settle(BrokerUnreachableError(self.address, self._broken.reason, was_sent=False))
            return
        self._last_opaque = self._last_opaque % _OPAQUE_MAX + 1
        frame = encode(self._last_opaque)
        self._waiting[self._last_opaque] = settle
        self._outgoing.append(frame)
        self._outgoing_bytes += len(frame)
        self._something_to_send.set()

    async def send(self, encode: Callable[[int], bytes]) -> PendingReply:
        """Queue a request as soon as there is room, for pipelining: wait for the reply later."""
        while self._outgoing_bytes > _OUTGOING_BYTES_MAX and self._broken is None:
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()
        pending = PendingReply()
        self.submit(encode, pending.settle)
        return pending

    async def request(
        self, encode: Callable[[int], bytes], timeout_seconds: float = REQUEST_SECONDS
    ) -> Reply:
        """Send a request and wait for its reply.

        Raises RequestTimeoutError and BrokerUnreachableError.
        """
        with anyio.move_on_after(timeout_seconds):
            return await (await self.send(encode)).wait()
        raise RequestTimeoutError(self.address, timeout_seconds)

    async def request_while_heard(self, encode: Callable[[int], bytes], silence_seconds: float) -> Reply:
        """Send a request and wait for its reply as long as anything is received.

        On a slow link a reply may stand behind much else, and much may belong to it. Raises
        RequestTimeoutError when nothing came for so long, and BrokerUnreachableError.
        """
        asked, pending = anyio.current_time(), None
        while (left := max(asked, self._heard_time) + silence_seconds - anyio.current_time()) > 0:
            with anyio.move_on_after(left):
                pending = pending or await self.send(encode)
                return await pending.wait()
        raise RequestTimeoutError(self.address, silence_seconds)

    async def wait_lost(self, pause_seconds: float, silence_seconds: float) -> BrokerUnreachableError:
        """Ask for a sign of life after each pause; returns, with the reason, when the connection has broken.

        A peer that vanished without a word is noticed only by asking. One whose answer stands behind much
        else, on a slow link, is there as long as anything comes.
        """
        while True:
            with anyio.move_on_after(pause_seconds):
                return await self.wait_broken()
            try:
                await self.request_while_heard(encode_version, silence_seconds)
            except RequestTimeoutError as error:
                self.break_off(str(error))
            except BrokerUnreachableError as error:
                return error

    # Commands.

    async def put(
        self, topic: str, partition: int, payload: bytes, attribute: str | None = None
    ) -> PutResult:
        """Send one message and wait until the broker has taken it; raises ClientError otherwise."""
        flag, data = join_attribute(attribute, payload)
        reply = await self.request(lambda opaque: encode_put(topic, partition, data, flag, opaque))
        message_id, used_partition, offset = expect_text(reply).split(" ")
        return PutResult(int(message_id), int(used_partition), int(offset))

    async def send_batch(self, topic: str, partition: int, batch: Batch) -> PendingReply:
        """Send a batch without waiting; give the reply to :func:`batch_result`."""
        records = batch.encode()
        return await self.send(lambda opaque: encode_put_batch(topic, partition, records, opaque))

    async def put_batch(self, topic: str, partition: int, batch: Batch) -> BatchResult:
        """Send a batch and wait until the broker has taken all of it; raises ClientError otherwise."""
        return batch_result(await (await self.send_batch(topic, partition, batch)).wait())

    async def get(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        size_max: int = FETCH_BYTES,
        wait_ms: int = 0,
        group: str = DEFAULT_GROUP,
    ) -> Fetched | Moved | NothingThere:
        """Read log bytes; with ``wait_ms`` the broker may hold the answer until there are some."""
        reply = await self.request_while_heard(
            lambda opaque: encode_get(topic, group, partition, offset, size_max, opaque, wait_ms),
            REQUEST_SECONDS + wait_ms / 1000,
        )
        return fetch_result(reply, topic, partition, offset)

    async def offset(self, topic: str, partition: int, offset: int, group: str = DEFAULT_GROUP) -> int:
        """The valid offset nearest to this one, by the broker's rules: 0 gives the first of all."""
        reply = await self.request(
            lambda opaque: encode_offset_query(topic, group, partition, offset, opaque)
        )
        return int(expect_text(reply))

    async def end_offset(self, topic: str, partition: int) -> int:
        """The offset behind the last message that can be read."""
        return await self.offset(topic, partition, MAX_OFFSET)

    async def stats(self, item: str = "", silence_seconds: float = REQUEST_SECONDS) -> str:
        """A statistics report."""
        reply = await self.request_while_heard(lambda opaque: encode_stats(item, opaque), silence_seconds)
        return expect_text(reply)

    async def ping(self) -> str:
        """The broker's version text."""
        return expect_text(await self.request(encode_version))

    async def follow(
        self, topic: str, partition: int, offset: int, *, group: str = DEFAULT_GROUP
    ) -> AsyncIterator[Message]:
        """Messages from an offset on, for ever: at the end it waits for more.

        Where the broker says that the offset has moved, it goes on there. Raises ClientError.
        """
        size_max = FETCH_BYTES
        while True:
            asked = anyio.current_time()
            got = await self.get(
                topic, partition, offset, size_max=size_max, wait_ms=FOLLOW_WAIT_MS, group=group
            )
            if isinstance(got, Moved):
                offset = got.offset
            elif isinstance(got, NothingThere):
                # A broker without the long poll answers at once, and so does one without the partition.
                if anyio.current_time() - asked < NOTHING_SECONDS:
                    await anyio.sleep(NOTHING_SECONDS)
            else:
                before = offset
                for message in got.messages():
                    offset = message.next_offset
                    yield message
                size_max = FETCH_BYTES if offset != before else next_fetch_size(size_max, got)

    # The shell.

    async def _receive(self) -> None:
        try:
            while True:
                data = await self._stream.receive(_RECEIVE_BYTES)
                self._heard_time = anyio.current_time()
                for reply in self._decoder.feed(data):
                    settle = self._waiting.pop(reply.opaque, None)
                    if settle is not None:
                        settle(reply)
        except anyio.EndOfStream:
            self.break_off("the broker closed the connection")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            self.break_off(str(error) or "the connection broke")
        except ProtocolError as error:
            self.break_off(error.reason)

    async def _send(self) -> None:
        try:
            while True:
                await self._something_to_send.wait()
                self._something_to_send = anyio.Event()
                data = b"".join(self._outgoing)
                self._outgoing.clear()
                self._sent_opaque = self._last_opaque
                await self._stream.send(data)
                self._outgoing_bytes -= len(data)
                self._room.set()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            self.break_off(str(error) or "the connection broke")


def _why_unreachable(error: Exception) -> str:
    """What anyio says itself is only that every address of the host has failed."""
    cause: BaseException | None = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    return str(error)


@asynccontextmanager
async def connect(
    host: str, port: int, *, timeout_seconds: float = CONNECT_SECONDS
) -> AsyncIterator[BrokerConnection]:
    """A connection to a broker, closed at the end of the block; raises BrokerUnreachableError.

    Connecting may take so long, and the first answer again.
    """
    address = format_address(host, port)
    try:
        with anyio.fail_after(timeout_seconds):
            stream = await anyio.connect_tcp(host, port)
    except TimeoutError:
        raise BrokerUnreachableError(address, f"no connection within {timeout_seconds:g} s") from None
    except (OSError, UnicodeError) as error:
        # UnicodeError: a host that can be none, as anybody may write it into the registry.
        raise BrokerUnreachableError(address, _why_unreachable(error)) from error
    async with stream:
        connection = BrokerConnection(stream, address)
        async with background_tasks() as tasks:
            tasks.start_soon(connection._receive)  # noqa: SLF001 - the two halves of one class's shell
            tasks.start_soon(connection._send)  # noqa: SLF001
            try:
                # A process that is stopped is connected to all the same: the kernel accepts for it.
                reply = await connection.request(encode_version, timeout_seconds)
            except RequestTimeoutError as error:
                raise BrokerUnreachableError(address, str(error)) from None
            connection.version = expect_text(reply)
            connection.extensions = announced_extensions(connection.version)
            yield connection


def announced_registry_port(version: str) -> int | None:
    """The port at which the broker hosts the registry, if its version text names one (docs/protocol.md)."""
    ports = map(_port, _announced(version, "registry="))
    return next((port for port in ports if port is not None), None)


def announced_registry_elsewhere(version: str) -> str | None:
    """The ``HOST:PORT`` of the registry that a slave's version text names (docs/protocol.md)."""
    for address in _announced(version, "registry-at="):
        host, _, port = address.rpartition(":")
        if host and _port(port) is not None:
            return address
    return None


def announced_registry(version: str, host: str) -> str | None:
    """The ``HOST:PORT`` of the registry that a version text names, for who reaches the broker at ``host``.

    A slave beside its master may know it by a loopback address, which is another machine for others.
    """
    port = announced_registry_port(version)
    if port is not None:
        return format_address(host, port)
    registry = announced_registry_elsewhere(version)
    if registry is None:
        return None
    name, _, text = registry.rpartition(":")
    return format_address(host, int(text)) if is_loopback(name) else registry


def is_loopback(host: str) -> bool:
    """Whether a host means this machine, whoever says it."""
    return host.strip("[]") in {"localhost", "::1"} or host.startswith("127.")


def announced_extensions(version: str) -> frozenset[str]:
    """The extensions a version text names (docs/protocol.md)."""
    names = next(_announced(version, "extensions="), None)
    return frozenset() if names is None else frozenset(names.split(","))


def _announced(version: str, key: str) -> Iterator[str]:
    return (word.removeprefix(key) for word in version.split(" ") if word.startswith(key))


def _port(text: str) -> int | None:
    port = parse_number(text.encode())
    return port if port is not None and 0 < port <= _PORT_MAX else None


def expect_text(reply: Reply) -> str:
    """The text of a reply that means success; raises ReplyError for any other."""
    if isinstance(reply, Value):
        raise ReplyError(Status.ERROR, "the broker answered with data where a text was due")
    if reply.status != Status.SUCCESS:
        raise ReplyError(reply.status, reply.text)
    return reply.text


def batch_result(reply: Reply) -> BatchResult:
    """What a ``putbatch`` was answered; raises ReplyError when it was refused."""
    first_id, partition, offset, count = expect_text(reply).split(" ")
    return BatchResult(int(first_id), int(partition), int(offset), int(count))


def fetch_result(reply: Reply, topic: str, partition: int, offset: int) -> Fetched | Moved | NothingThere:
    """What a ``get`` was answered; raises ReplyError when it failed."""
    if isinstance(reply, Value):
        return Fetched(topic, partition, offset, reply.data)
    if reply.status == Status.MOVED:
        moved_to, _, skipped_from = reply.text.partition(" ")
        return Moved(int(moved_to), int(skipped_from) if skipped_from else None)
    if reply.status in (Status.NOT_FOUND, Status.FORBIDDEN):
        return NothingThere(reply.text)
    raise ReplyError(reply.status, reply.text)


def next_fetch_size(size_max: int, got: Fetched) -> int:
    """A larger size after a fetch held no whole record; raises ReplyError where no size can help."""
    if size_max >= FETCH_BYTES_MAX or len(got.data) < size_max:
        text = f"no whole, valid record in {len(got.data)} bytes at offset {got.offset}"
        raise ReplyError(Status.ERROR, text)
    return size_max * 2
