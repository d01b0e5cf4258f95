"""Requests as values: the bytes of one frame in, one attrs object out.

A frame is a length of four bytes and that many bytes. The first frame of a connection is a
:class:`ConnectRequest`; every other begins with the request's number (xid) and its operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.registry.embedded.codes import Code, MalformedError, Operation, RequestRefusedError
from metaserver.registry.embedded.jute import Reader
from metaserver.registry.embedded.node import Acl

if TYPE_CHECKING:
    from collections.abc import Callable

_FLAG_EPHEMERAL = 1
_FLAG_SEQUENTIAL = 2
_FLAGS_KNOWN = 3
_FLAG_TTL_MAX = 6
"""4 is a container, 5 and 6 have a time to live."""
_MULTI_OPERATIONS_MAX = 10_000


@attrs.frozen
class ConnectRequest:
    """Opens a session, or takes one up again."""

    last_zxid_seen: int
    timeout_ms: int
    session_id: int
    """0 for a new one."""
    password: bytes
    knows_read_only: bool
    """Whether the request ended in a byte about read-only servers; the reply then has one too."""


@attrs.frozen
class Create:
    """Make a node."""

    path: str
    data: bytes | None
    acl: tuple[Acl, ...]
    is_ephemeral: bool
    is_sequential: bool
    wants_stat: bool
    """Whether it is ``create2``."""


@attrs.frozen
class Delete:
    """Remove a node."""

    path: str
    version: int


@attrs.frozen
class SetData:
    """Replace a node's data."""

    path: str
    data: bytes | None
    version: int


@attrs.frozen
class SetAcl:
    """Replace a node's access list."""

    path: str
    acl: tuple[Acl, ...]
    version: int


@attrs.frozen
class Check:
    """Be refused unless a node has this version."""

    path: str
    version: int


@attrs.frozen
class Multi:
    """All of them or none."""

    operations: tuple[Write, ...]


@attrs.frozen
class Exists:
    """A node's stat."""

    path: str
    watch: bool


@attrs.frozen
class GetData:
    """A node's data and stat."""

    path: str
    watch: bool


@attrs.frozen
class GetChildren:
    """The names of a node's children."""

    path: str
    watch: bool
    wants_stat: bool
    """Whether it is ``getChildren2``."""


@attrs.frozen
class MultiRead:
    """Several reads of one moment."""

    operations: tuple[GetData | GetChildren, ...]


@attrs.frozen
class GetAcl:
    """A node's access list and stat."""

    path: str


@attrs.frozen
class GetEphemerals:
    """The session's ephemeral nodes below a prefix."""

    prefix: str


@attrs.frozen
class CountDescendants:
    """How many nodes are below a path."""

    path: str


@attrs.frozen
class Sync:
    """Be answered after everything asked for before is durable."""

    path: str


@attrs.frozen
class Ping:
    """A sign of life."""


@attrs.frozen
class Auth:
    """Who the client says it is."""

    scheme: str
    credentials: bytes


@attrs.frozen
class WhoAmI:
    """Who the server thinks the client is."""


@attrs.frozen
class SetWatches:
    """The watches of the connection before this one, and what the client had seen then."""

    relative_zxid: int
    data: tuple[str, ...]
    exist: tuple[str, ...]
    children: tuple[str, ...]


@attrs.frozen
class TakeBackWatches:
    """Remove watches of this connection, or only ask whether there are any."""

    path: str
    watcher_type: int
    is_removal: bool


@attrs.frozen
class CloseSession:
    """The end of the session."""


Write: TypeAlias = Create | Delete | SetData | SetAcl | Check
Read: TypeAlias = Exists | GetData | GetChildren | GetAcl | GetEphemerals | CountDescendants | MultiRead
Other: TypeAlias = Sync | Ping | Auth | WhoAmI | SetWatches | TakeBackWatches | CloseSession
Request: TypeAlias = Write | Multi | Read | Other


def decode_connect(frame: bytes) -> ConnectRequest:
    """The first frame of a connection. Raises MalformedError."""
    reader = Reader(frame)
    reader.int32()  # The protocol's version: there is one.
    last_zxid_seen, timeout_ms, session_id = reader.int64(), reader.int32(), reader.int64()
    password = reader.buffer() or b""
    return ConnectRequest(last_zxid_seen, timeout_ms, session_id, password, bool(reader.remaining))


def decode_header(frame: bytes) -> tuple[int, int, Reader]:
    """Number and operation of a request, and where its body is read from. Raises MalformedError."""
    reader = Reader(frame)
    return reader.int32(), reader.int32(), reader


def decode_body(operation: int, reader: Reader) -> Request:
    """What is asked for.

    Raises MalformedError; RequestRefusedError where it is understood but not offered.
    """
    decode = _DECODERS.get(operation)
    if decode is None:
        raise RequestRefusedError(Code.UNIMPLEMENTED)
    return decode(reader)


def _create(reader: Reader, *, wants_stat: bool = False) -> Create:
    path, data, acl, flags = reader.string(), reader.buffer(), read_acl(reader), reader.int32()
    if not 0 <= flags <= _FLAGS_KNOWN:
        raise RequestRefusedError(Code.UNIMPLEMENTED if 0 < flags <= _FLAG_TTL_MAX else Code.BAD_ARGUMENTS)
    return Create(
        path,
        data,
        acl,
        is_ephemeral=bool(flags & _FLAG_EPHEMERAL),
        is_sequential=bool(flags & _FLAG_SEQUENTIAL),
        wants_stat=wants_stat,
    )


def _create2(reader: Reader) -> Create:
    return _create(reader, wants_stat=True)


def _delete(reader: Reader) -> Delete:
    return Delete(reader.string(), reader.int32())


def _set_data(reader: Reader) -> SetData:
    return SetData(reader.string(), reader.buffer(), reader.int32())


def _set_acl(reader: Reader) -> SetAcl:
    return SetAcl(reader.string(), read_acl(reader), reader.int32())


def _check(reader: Reader) -> Check:
    return Check(reader.string(), reader.int32())


_MULTI_DECODERS: dict[int, Callable[[Reader], Write]] = {
    Operation.CREATE: _create,
    Operation.CREATE2: _create2,
    Operation.DELETE: _delete,
    Operation.SET_DATA: _set_data,
    Operation.CHECK: _check,
}


def _multi(reader: Reader) -> Multi:
    operations: list[Write] = []
    while (kind := _next_of_multi(reader, len(operations))) is not None:
        decode = _MULTI_DECODERS.get(kind)
        if decode is None:
            raise RequestRefusedError(Code.UNIMPLEMENTED)
        operations.append(decode(reader))
    return Multi(tuple(operations))


def _multi_read(reader: Reader) -> MultiRead:
    operations: list[GetData | GetChildren] = []
    while (kind := _next_of_multi(reader, len(operations))) is not None:
        if kind == Operation.GET_DATA:
            operations.append(_get_data(reader))
        elif kind == Operation.GET_CHILDREN:
            operations.append(_get_children(reader))
        else:
            raise RequestRefusedError(Code.UNIMPLEMENTED)
    return MultiRead(tuple(operations))


def _next_of_multi(reader: Reader, count: int) -> int | None:
    """The operation that follows; None behind the last."""
    kind, is_done, _error = reader.int32(), reader.boolean(), reader.int32()
    if count > _MULTI_OPERATIONS_MAX:
        raise MalformedError("too many operations in one")
    return None if is_done else kind


def _exists(reader: Reader) -> Exists:
    return Exists(reader.string(), reader.boolean())


def _get_data(reader: Reader) -> GetData:
    return GetData(reader.string(), reader.boolean())


def _get_children(reader: Reader) -> GetChildren:
    return GetChildren(reader.string(), reader.boolean(), wants_stat=False)


def _get_children2(reader: Reader) -> GetChildren:
    return GetChildren(reader.string(), reader.boolean(), wants_stat=True)


def _set_watches(reader: Reader) -> SetWatches:
    return SetWatches(reader.int64(), *(tuple(reader.sequence(reader.string)) for _ in range(3)))


def _set_watches2(reader: Reader) -> SetWatches:
    watches = _set_watches(reader)
    if reader.sequence(reader.string) or reader.sequence(reader.string):
        raise RequestRefusedError(Code.UNIMPLEMENTED)  # Persistent watches, which nobody could have set.
    return watches


def _auth(reader: Reader) -> Auth:
    reader.int32()  # Always 0.
    return Auth(reader.string(), reader.buffer() or b"")


def read_acl(reader: Reader) -> tuple[Acl, ...]:
    """An access list."""
    return tuple(Acl(reader.int32(), reader.string(), reader.string()) for _ in range(reader.count(12)))


_DECODERS: dict[int, Callable[[Reader], Request]] = {
    Operation.CREATE: _create,
    Operation.CREATE2: _create2,
    Operation.DELETE: _delete,
    Operation.SET_DATA: _set_data,
    Operation.SET_ACL: _set_acl,
    Operation.CHECK: _check,
    Operation.MULTI: _multi,
    Operation.EXISTS: _exists,
    Operation.GET_DATA: _get_data,
    Operation.GET_CHILDREN: _get_children,
    Operation.GET_CHILDREN2: _get_children2,
    Operation.MULTI_READ: _multi_read,
    Operation.GET_ACL: lambda reader: GetAcl(reader.string()),
    Operation.GET_EPHEMERALS: lambda reader: GetEphemerals(reader.string()),
    Operation.GET_ALL_CHILDREN_NUMBER: lambda reader: CountDescendants(reader.string()),
    Operation.SYNC: lambda reader: Sync(reader.string()),
    Operation.PING: lambda _reader: Ping(),
    Operation.AUTH: _auth,
    Operation.WHO_AM_I: lambda _reader: WhoAmI(),
    Operation.SET_WATCHES: _set_watches,
    Operation.SET_WATCHES2: _set_watches2,
    Operation.CHECK_WATCHES: lambda reader: TakeBackWatches(
        reader.string(), reader.int32(), is_removal=False
    ),
    Operation.REMOVE_WATCHES: lambda reader: TakeBackWatches(
        reader.string(), reader.int32(), is_removal=True
    ),
    Operation.CLOSE_SESSION: lambda _reader: CloseSession(),
}
