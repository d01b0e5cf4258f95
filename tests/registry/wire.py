"""A ZooKeeper client that shows every frame in the order in which it came.

Requests are encoded by kazoo's serialisers, so a fault of our own codec cannot hide itself.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kazoo.protocol import serialization
from kazoo.security import OPEN_ACL_UNSAFE

from tests.support import WAIT_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

ACL = OPEN_ACL_UNSAFE
STAT = Struct(">qqqqiiiqiiq")
_HEADER = Struct(">iqi")
_CONNECTED = Struct(">iiq")

Create = serialization.Create
Create2 = serialization.Create2
Delete = serialization.Delete
Exists = serialization.Exists
GetData = serialization.GetData
SetData = serialization.SetData
GetACL = serialization.GetACL
SetACL = serialization.SetACL
GetChildren = serialization.GetChildren
GetChildren2 = serialization.GetChildren2
Sync = serialization.Sync
Check = serialization.CheckVersion
Transaction = serialization.Transaction


class Stat(NamedTuple):
    """What a node's stat says that two servers agree on."""

    created: int
    modified: int
    version: int
    children_version: int
    acl_version: int
    owner: int
    size: int
    children: int
    children_changed: int


class EventFrame(NamedTuple):
    kind: int
    path: str


class ReplyFrame(NamedTuple):
    xid: int
    zxid: int
    code: int
    body: bytes


Frame = EventFrame | ReplyFrame


class RawRequest(NamedTuple):
    """A request kazoo has no class for."""

    type: int
    data: bytes

    def serialize(self) -> bytes:
        return self.data


def string(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def strings(values: Sequence[str]) -> bytes:
    return len(values).to_bytes(4, "big") + b"".join(map(string, values))


def set_watches(
    zxid: int, data: Sequence[str] = (), exist: Sequence[str] = (), children: Sequence[str] = ()
) -> RawRequest:
    return RawRequest(101, zxid.to_bytes(8, "big") + strings(data) + strings(exist) + strings(children))


def stat(data: bytes) -> Stat:
    czxid, mzxid, _ctime, _mtime, version, cversion, aversion, owner, size, children, pzxid = STAT.unpack(
        data
    )
    return Stat(czxid, mzxid, version, cversion, aversion, owner, size, children, pzxid)


class SessionEndedError(Exception):
    """The server closed the connection."""


class Session:
    """One session on one connection."""

    def __init__(
        self,
        port: int,
        *,
        timeout_ms: int = 4000,
        last_zxid: int = 0,
        session_id: int = 0,
        password: bytes = bytes(16),
        read_only_byte: bool = True,
        patience_seconds: float = WAIT_SECONDS_MAX,
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), patience_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = bytearray()
        self._xid = 0
        body = (
            (0).to_bytes(4, "big")
            + last_zxid.to_bytes(8, "big")
            + timeout_ms.to_bytes(4, "big")
            + session_id.to_bytes(8, "big", signed=True)
            + len(password).to_bytes(4, "big")
            + password
        )
        if read_only_byte:
            body += b"\0"
        try:
            self.send_frame(body)
            reply = self.frame()
        except BaseException:
            self.drop()
            raise
        _version, self.timeout_ms, self.session_id = _CONNECTED.unpack_from(reply)
        size = int.from_bytes(reply[16:20], "big")
        self.password = reply[20 : 20 + size]
        self.read_only_reply = reply[20 + size :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Close the connection, not the session."""
        self._socket.close()

    def resume(self, port: int, *, last_zxid: int = 0) -> Session:
        return Session(port, session_id=self.session_id, password=self.password, last_zxid=last_zxid)

    def send_frame(self, body: bytes) -> None:
        self._socket.sendall(len(body).to_bytes(4, "big") + body)

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, request: Any, *, xid: int | None = None) -> int:  # noqa: ANN401 - kazoo's classes share no type
        """Send without waiting; returns the request's number."""
        if xid is None:
            self._xid += 1
            xid = self._xid
        data = bytes(request.serialize())
        self.send_frame(
            xid.to_bytes(4, "big", signed=True) + request.type.to_bytes(4, "big", signed=True) + data
        )
        return xid

    def next(self) -> Frame:
        """The next frame, whatever it is."""
        data = self.frame()
        xid, zxid, code = _HEADER.unpack_from(data)
        body = data[16:]
        if xid != -1:
            return ReplyFrame(xid, zxid, code, body)
        assert code == 0
        size = int.from_bytes(body[8:12], "big")
        assert int.from_bytes(body[4:8], "big") == 3
        return EventFrame(int.from_bytes(body[:4], "big"), body[12 : 12 + size].decode())

    def until_reply(self) -> tuple[list[EventFrame], ReplyFrame]:
        """The next reply, and the events in front of it."""
        events = []
        while isinstance(frame := self.next(), EventFrame):
            events.append(frame)
        return events, frame

    def ask(self, request: Any, *, xid: int | None = None) -> ReplyFrame:  # noqa: ANN401
        """Send and take the reply; an event in front of it fails the test."""
        number = self.send(request, xid=xid)
        events, reply = self.until_reply()
        assert not events
        assert reply.xid == number
        return reply

    def ping(self) -> tuple[list[EventFrame], ReplyFrame]:
        self.send(RawRequest(11, b""), xid=-2)
        return self.until_reply()

    def close(self) -> list[EventFrame]:
        """Close the session; the events in front of the reply."""
        self.send(RawRequest(-11, b""))
        events, reply = self.until_reply()
        assert reply.code == 0
        self.expect_end()
        self.drop()
        return events

    def expect_end(self) -> None:
        """The server closes and sends no whole frame before."""
        try:
            frame = self.frame()
        except SessionEndedError:
            return
        raise AssertionError(f"the server sent {frame!r} instead of closing")

    def frame(self) -> bytes:
        while len(self._held) < 4 or len(self._held) < 4 + int.from_bytes(self._held[:4], "big"):
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise SessionEndedError
            self._held += data
        end = 4 + int.from_bytes(self._held[:4], "big")
        frame = bytes(self._held[4:end])
        del self._held[:end]
        return frame
