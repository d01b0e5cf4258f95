"""Replies and watch events as bytes, each a whole frame."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from metaserver.registry.embedded.codes import (
    EVENT_ZXID,
    STATE_CONNECTED,
    XID_EVENT,
    Code,
    Operation,
)
from metaserver.registry.embedded.jute import encode_bool, encode_buffer, encode_int, encode_string

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaserver.registry.embedded.codes import Event

_HEADER = Struct(">iiqi")
_HEADER_SIZE = 16
_CONNECT = Struct(">iiq")
_MULTI_HEADER = Struct(">i?i")

PASSWORD_SIZE = 16
_MULTI_END = _MULTI_HEADER.pack(-1, True, -1)


def encode_reply(xid: int, zxid: int, code: int = Code.OK, body: bytes = b"") -> bytes:
    """The answer to one request; one that is refused has no body."""
    return _HEADER.pack(_HEADER_SIZE + len(body), xid, zxid, code) + body


def encode_event(event: Event, path: str) -> bytes:
    """What a watch reports."""
    body = encode_int(event) + encode_int(STATE_CONNECTED) + encode_string(path)
    return encode_reply(XID_EVENT, EVENT_ZXID, Code.OK, body)


def encode_connected(timeout_ms: int, session_id: int, password: bytes, *, knows_read_only: bool) -> bytes:
    """The answer to a connect request."""
    body = _CONNECT.pack(0, timeout_ms, session_id) + encode_buffer(password)
    if knows_read_only:
        body += encode_bool(False)
    return encode_int(len(body)) + body


def encode_no_such_session(*, knows_read_only: bool) -> bytes:
    """The answer to who wants to take up a session that has ended, or is another's."""
    return encode_connected(0, 0, bytes(PASSWORD_SIZE), knows_read_only=knows_read_only)


def encode_result(operation: int, body: bytes) -> bytes:
    """One operation of a multi that was done."""
    return _MULTI_HEADER.pack(operation, False, Code.OK) + body


def encode_error_result(code: int) -> bytes:
    """One operation of a multi that was not done."""
    return _MULTI_HEADER.pack(Operation.ERROR, False, code) + encode_int(code)


def encode_results(results: Iterable[bytes]) -> bytes:
    """The body of a multi's reply."""
    return b"".join((*results, _MULTI_END))
