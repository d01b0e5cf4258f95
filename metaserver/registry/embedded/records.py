"""The registry's log: transactions, and now and then the whole tree, as records of bytes.

Every record begins with one byte for its kind::

    1  transaction     zxid, time, count, and so many changes; none: an epoch begins
    2  snapshot begin  zxid, highest session number, sessions and nodes that follow
    3  sessions        count, and so many sessions
    4  nodes           count, and so many nodes, parents before children
    5  snapshot end    zxid

The registry is what the last complete snapshot says, and every transaction behind it. A snapshot that
a crash cut short has no end, and counts for nothing. Numbers and strings are as in ZooKeeper's protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.registry.embedded.codes import MalformedError
from metaserver.registry.embedded.jute import Reader, encode_buffer, encode_int, encode_long, encode_string
from metaserver.registry.embedded.node import OPEN_ACL, Node, encode_acl
from metaserver.registry.embedded.requests import read_acl
from metaserver.registry.embedded.transactions import (
    CreateNode,
    DeleteNode,
    EndSession,
    OpenSession,
    SetNodeAcl,
    SetNodeData,
    Transaction,
)
from metaserver.registry.embedded.tree import SessionRecord, Tree, split_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from metaserver.registry.embedded.node import Acl
    from metaserver.registry.embedded.transactions import Change

TRANSACTION, _BEGIN, _SESSIONS, _NODES, SNAPSHOT_END = b"\1", b"\2", b"\3", b"\4", b"\5"
_OPEN_SESSION, _END_SESSION, _CREATE, _DELETE, _SET_DATA, _SET_ACL = range(1, 7)
_PART_BYTES = 64 * 1024
"""A snapshot's record ends behind the entry that makes it this long."""


def encode_transaction(transaction: Transaction) -> bytes:
    """One record."""
    return b"".join(
        (
            TRANSACTION,
            encode_long(transaction.zxid),
            encode_long(transaction.wall_ms),
            encode_int(len(transaction.changes)),
            *map(_encode_change, transaction.changes),
        )
    )


def encode_snapshot(tree: Tree) -> list[bytes]:
    """The whole tree as records, in the order in which they are to be appended."""
    counts = encode_int(len(tree.sessions)) + encode_int(len(tree.nodes))
    head = _BEGIN + encode_long(tree.zxid) + encode_long(tree.last_session_id) + counts
    sessions = (
        encode_long(session_id) + encode_int(session.timeout_ms) + encode_buffer(session.password)
        for session_id, session in tree.sessions.items()
    )
    # In the order of creation, so parents first. A deletion that was taken back puts a node at the end, but
    # one that could be deleted has no children.
    nodes = (_encode_node(path, node) for path, node in tree.nodes.items())
    return [head, *_parts(_SESSIONS, sessions), *_parts(_NODES, nodes), SNAPSHOT_END + encode_long(tree.zxid)]


class Loader:
    """Builds the tree from the records of a log, fed in their order."""

    def __init__(self) -> None:
        """Begin with the tree of a new registry."""
        self.tree = Tree()
        self._snapshot: Tree | None = None
        """Begun and not ended."""
        self._expected = (0, 0)

    def feed(self, record: bytes) -> None:
        """Take one record. Raises MalformedError where it is none, or one before it is missing."""
        reader = Reader(record)
        kind = reader.raw(1)
        if kind == TRANSACTION:
            self._snapshot = None
            transaction = _read_transaction(reader)
            if not transaction.follows(self.tree.zxid):
                raise MalformedError(f"transaction {transaction.zxid:#x} follows on {self.tree.zxid:#x}")
            try:
                self.tree.apply(transaction)
            except KeyError as error:
                raise MalformedError(
                    f"transaction {transaction.zxid:#x} needs {error}, which is not there"
                ) from error
        elif kind == _BEGIN:
            self._snapshot = Tree({}, zxid=reader.int64(), last_session_id=reader.int64())
            self._expected = reader.int32(), reader.int32()
        elif self._snapshot is None:
            raise MalformedError("a piece of a snapshot without its beginning")
        elif kind == _SESSIONS:
            for _ in range(reader.count(16)):
                session_id, timeout_ms = reader.int64(), reader.int32()
                self._snapshot.sessions[session_id] = SessionRecord(timeout_ms, reader.buffer() or b"")
        elif kind == _NODES:
            for _ in range(reader.count(16)):
                self._add_node(self._snapshot, *_read_node(reader))
        elif kind == SNAPSHOT_END:
            self._take(self._snapshot)
            self._snapshot = None
        else:
            raise MalformedError(f"a record of the unknown kind {kind!r}")

    def _add_node(self, snapshot: Tree, path: str, node: Node) -> None:
        if path != "/" and split_path(path)[0] not in snapshot.nodes:
            raise MalformedError(f"a snapshot has {path} without its parent")
        snapshot.add_loaded(path, node)

    def _take(self, snapshot: Tree) -> None:
        found = len(snapshot.sessions), len(snapshot.nodes)
        if found != self._expected:
            raise MalformedError(f"a snapshot of {self._expected} sessions and nodes holds {found}")
        self.tree = snapshot


def load(records: Iterable[bytes]) -> Tree:
    """The tree a whole log stands for. Raises MalformedError."""
    loader = Loader()
    for record in records:
        loader.feed(record)
    return loader.tree


def _encode_change(change: Change) -> bytes:
    match change:
        case OpenSession(session_id=session_id, timeout_ms=timeout_ms, password=password):
            body = encode_long(session_id) + encode_int(timeout_ms) + encode_buffer(password)
            return encode_int(_OPEN_SESSION) + body
        case EndSession(session_id=session_id):
            return encode_int(_END_SESSION) + encode_long(session_id)
        case CreateNode(path=path, data=data, acl=acl, owner=owner):
            body = encode_string(path) + encode_buffer(data) + _encode_stored_acl(acl) + encode_long(owner)
            return encode_int(_CREATE) + body
        case DeleteNode(path=path):
            return encode_int(_DELETE) + encode_string(path)
        case SetNodeData(path=path, data=data):
            return encode_int(_SET_DATA) + encode_string(path) + encode_buffer(data)
        case SetNodeAcl(path=path, acl=acl):
            return encode_int(_SET_ACL) + encode_string(path) + _encode_stored_acl(acl)


def _read_transaction(reader: Reader) -> Transaction:
    zxid, wall_ms = reader.int64(), reader.int64()
    return Transaction(zxid, wall_ms, tuple(_read_change(reader) for _ in range(reader.count(8))))


def _read_change(reader: Reader) -> Change:
    match reader.int32():
        case 1:
            return OpenSession(reader.int64(), reader.int32(), reader.buffer() or b"")
        case 2:
            return EndSession(reader.int64())
        case 3:
            return CreateNode(reader.string(), reader.buffer(), _read_stored_acl(reader), reader.int64())
        case 4:
            return DeleteNode(reader.string())
        case 5:
            return SetNodeData(reader.string(), reader.buffer())
        case 6:
            return SetNodeAcl(reader.string(), _read_stored_acl(reader))
        case kind:
            raise MalformedError(f"a change of the unknown kind {kind}")


def _encode_stored_acl(acl: tuple[Acl, ...]) -> bytes:
    """The list nearly every node has takes four bytes."""
    return encode_int(-1) if acl == OPEN_ACL else encode_acl(acl)


def _read_stored_acl(reader: Reader) -> tuple[Acl, ...]:
    return read_acl(reader) or OPEN_ACL


def _encode_node(path: str, node: Node) -> bytes:
    return b"".join(
        (
            encode_string(path),
            encode_buffer(node.data),
            _encode_stored_acl(node.acl),
            encode_long(node.created_zxid),
            encode_long(node.modified_zxid),
            encode_long(node.children_zxid),
            encode_long(node.created_ms),
            encode_long(node.modified_ms),
            encode_int(node.version),
            encode_int(node.acl_version),
            encode_int(node.children_created),
            encode_long(node.owner),
        )
    )


def _read_node(reader: Reader) -> tuple[str, Node]:
    path, data, acl = reader.string(), reader.buffer(), _read_stored_acl(reader)
    zxids, times = (reader.int64(), reader.int64(), reader.int64()), (reader.int64(), reader.int64())
    counts = reader.int32(), reader.int32(), reader.int32()
    return path, Node(data, acl, *zxids, *times, *counts, owner=reader.int64())


def _parts(kind: bytes, entries: Iterable[bytes]) -> Iterator[bytes]:
    part: list[bytes] = []
    size = 0
    for entry in entries:
        part.append(entry)
        size += len(entry)
        if size >= _PART_BYTES:
            yield kind + encode_int(len(part)) + b"".join(part)
            part, size = [], 0
    if part:
        yield kind + encode_int(len(part)) + b"".join(part)
