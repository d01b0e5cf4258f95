"""The registry without sockets, disk or clock: frames in, effects out.

Effects are in the order in which they must happen. What a client is told may depend on every
transaction before it, so a ``Send`` leaves only when the ``Append`` effects in front of it are durable;
the tree itself is ahead of the disk by what is on its way there, and nobody sees that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.registry.embedded.acl import (
    Identity,
    Permission,
    check_acl,
    digest_identity,
    without_hashes,
)
from metaserver.registry.embedded.codes import (
    XID_PING,
    Code,
    Event,
    MalformedError,
    Operation,
    RequestRefusedError,
)
from metaserver.registry.embedded.jute import encode_buffer, encode_int, encode_string, encode_strings
from metaserver.registry.embedded.node import encode_acl
from metaserver.registry.embedded.planning import find, plan
from metaserver.registry.embedded.records import encode_snapshot, encode_transaction
from metaserver.registry.embedded.replies import (
    PASSWORD_SIZE,
    encode_connected,
    encode_error_result,
    encode_event,
    encode_no_such_session,
    encode_reply,
    encode_result,
    encode_results,
)
from metaserver.registry.embedded.requests import (
    Auth,
    Check,
    CloseSession,
    CountDescendants,
    Create,
    Delete,
    Exists,
    GetAcl,
    GetChildren,
    GetData,
    GetEphemerals,
    Multi,
    MultiRead,
    Ping,
    SetAcl,
    SetData,
    SetWatches,
    Sync,
    TakeBackWatches,
    WhoAmI,
    decode_body,
    decode_connect,
    decode_header,
)
from metaserver.registry.embedded.transactions import (
    CreateNode,
    DeleteNode,
    EndSession,
    OpenSession,
    SetNodeData,
    Transaction,
    epoch_of,
    first_zxid,
)
from metaserver.registry.embedded.tree import split_path
from metaserver.registry.embedded.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.registry.embedded.requests import ConnectRequest, Request, Write
    from metaserver.registry.embedded.transactions import Change
    from metaserver.registry.embedded.tree import Tree
    from metaserver.storage import Clock


_EPOCH_BY_CLOCK_MAX = 2**30
"""A clock that is wrong by a thousand years shall leave numbers for those who come after it."""


@attrs.frozen(kw_only=True)
class RegistryOptions:
    """What the owner of a registry decides."""

    tick_ms: int = 2000
    """Sessions are looked at so often; they may have a timeout of 2 to 20 ticks."""
    sessions_max: int = 10_000
    watches_per_connection_max: int = 100_000


@attrs.define(eq=False)
class Peer:
    """One connection, as the registry knows it."""

    address: str
    """The host at the other end."""
    session_id: int = 0
    """0 until the peer has opened or taken up a session."""
    is_open: bool = True
    """Whether it is still served."""
    identities: dict[Identity, None] = attrs.Factory(dict)


@attrs.frozen
class Append:
    """Put a transaction into the log."""

    record: bytes


@attrs.frozen
class Compact:
    """Put a snapshot into the log; what is before it there is not needed any more."""

    records: Sequence[bytes]


@attrs.frozen
class Send:
    """Send a frame."""

    peer: Peer
    frame: bytes


@attrs.frozen
class Close:
    """Close the connection, behind everything sent to it."""

    peer: Peer


Effect: TypeAlias = Append | Compact | Send | Close


@attrs.define(eq=False)
class Registry:
    """Serves any number of peers on one tree."""

    tree: Tree
    _options: RegistryOptions
    _clock: Clock
    _random_bytes: Callable[[int], bytes]
    """For the passwords of sessions."""
    _effects: list[Effect] = attrs.Factory(list)
    _watches: Watches[Peer] = attrs.Factory(Watches)
    _peers: dict[int, Peer] = attrs.Factory(dict)
    """By session; only sessions that are connected."""
    _timeouts_ms: dict[int, int] = attrs.Factory(dict)
    """As negotiated with each session's last connection."""
    _deadlines_ms: dict[int, float] = attrs.Factory(dict)
    _last_tick_ms: float = 0.0
    _next_session_id: int = 0

    def __attrs_post_init__(self) -> None:
        """Every session found in the log has its whole timeout to come back."""
        now_ms = self._last_tick_ms = self._now_ms()
        for session_id, session in self.tree.sessions.items():
            self._timeouts_ms[session_id] = session.timeout_ms
            self._deadlines_ms[session_id] = now_ms + session.timeout_ms
        # The clock in them only makes the numbers of two registries differ; uniqueness is counted.
        by_clock = (self._wall_ms() << 16) & (2**55 - 1)
        self._next_session_id = max(self.tree.last_session_id + 1, by_clock)

    @property
    def session_count(self) -> int:
        """Sessions that have not ended, connected or not."""
        return len(self.tree.sessions)

    @property
    def watch_count(self) -> int:
        """Watches set by all connections."""
        return self._watches.count

    def take_effects(self) -> list[Effect]:
        """What is to happen since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def connected(self, address: str) -> Peer:
        """Begin to serve a connection."""
        peer = Peer(address)
        if address:
            peer.identities[Identity("ip", address)] = None
        return peer

    def disconnected(self, peer: Peer) -> None:
        """The connection is gone; its session stays until its time is over."""
        if not peer.is_open:
            return
        peer.is_open = False
        self._watches.forget(peer)
        if self._peers.get(peer.session_id) is peer:
            del self._peers[peer.session_id]

    def received(self, peer: Peer, frame: bytes) -> None:
        """Act on one frame (without its length) of an open peer."""
        try:
            if not peer.session_id:
                self._connect(peer, decode_connect(frame))
                return
            xid, operation, reader = decode_header(frame)
        except MalformedError:
            self._close(peer)
            return
        self._touch(peer.session_id)
        if operation == Operation.PING:
            self._send(peer, encode_reply(XID_PING, self.tree.zxid))
            return
        try:
            request = decode_body(operation, reader)
            body = self._handle(peer, request)
        except RequestRefusedError as error:
            self._send(peer, encode_reply(xid, self.tree.zxid, error.code))
            if error.code == Code.AUTH_FAILED:
                self._close(peer)
        except MalformedError:
            self._send(peer, encode_reply(xid, self.tree.zxid, Code.MARSHALLING_ERROR))
        else:
            self._send(peer, encode_reply(xid, self.tree.zxid, Code.OK, body))
            if isinstance(request, CloseSession):
                self._close(peer)
        if self._watches.count_of(peer) > self._options.watches_per_connection_max:
            self._close(peer)

    def tick(self) -> None:
        """End the sessions whose time is over; call it every ``tick_ms``."""
        now_ms = self._now_ms()
        stood_still = now_ms - self._last_tick_ms > 2 * self._options.tick_ms
        self._last_tick_ms = now_ms
        if stood_still:
            # This process, not the clients: what they sent meanwhile is waiting to be read.
            for session_id, timeout_ms in self._timeouts_ms.items():
                self._deadlines_ms[session_id] = now_ms + timeout_ms
        expired = [
            session_id for session_id, deadline_ms in self._deadlines_ms.items() if deadline_ms <= now_ms
        ]
        for session_id in expired:
            self._expel(session_id)

    def begin_epoch(self) -> None:
        """Jump ahead of every number that an earlier start may have given out.

        The log may be a copy that lacks the end of the original, even whole epochs: clients that have seen
        more are refused otherwise. So the minutes since 1970 count where they are more than one epoch ahead.
        """
        minutes = self._wall_ms() // 60_000
        epoch = max(epoch_of(self.tree.zxid) + 1, min(minutes, _EPOCH_BY_CLOCK_MAX))
        transaction = Transaction(first_zxid(epoch), self._wall_ms(), ())
        self.tree.apply(transaction)
        self._announce(transaction, [])

    def end_session_of(self, path: str) -> None:
        """End the session that owns a node, connected or not; nothing where none does."""
        node = self.tree.nodes.get(path)
        if node is not None and node.owner:
            self._expel(node.owner)

    def end_sessions_beside(self, path: str, data: bytes) -> None:
        """End the sessions that own a node with this parent and these data."""
        parent_path = path.rpartition("/")[0]
        parent = self.tree.nodes.get(parent_path)
        for name in [] if parent is None else list(parent.children):
            node = self.tree.nodes.get(f"{parent_path}/{name}")
            if node is not None and node.owner and node.data == data:
                self._expel(node.owner)

    def compact(self) -> None:
        """Put the whole tree into the log."""
        self._effects.append(Compact(encode_snapshot(self.tree)))

    # Sessions.

    def _expel(self, session_id: int) -> None:
        self._end_session(session_id)
        peer = self._peers.get(session_id)
        if peer is not None:
            self._close(peer)

    def _connect(self, peer: Peer, request: ConnectRequest) -> None:
        options = self._options
        if request.last_zxid_seen > self.tree.zxid:
            # It has seen what this registry does not know: it must not believe this is the same one.
            self._close(peer)
            return
        timeout_ms = min(max(request.timeout_ms, 2 * options.tick_ms), 20 * options.tick_ms)
        knows_read_only = request.knows_read_only
        if request.session_id:
            session_id = request.session_id
            session = self.tree.sessions.get(session_id)
            if session is None or session.password != request.password:
                self._send(peer, encode_no_such_session(knows_read_only=knows_read_only))
                self._close(peer)
                return
            password = session.password
            before = self._peers.get(session_id)
            if before is not None:
                self._close(before)
        elif len(self.tree.sessions) >= options.sessions_max:
            self._close(peer)
            return
        else:
            session_id, password = self._next_session_id, self._random_bytes(PASSWORD_SIZE)
            self._next_session_id += 1
            self._commit((OpenSession(session_id, timeout_ms, password),))
        peer.session_id = session_id
        self._peers[session_id] = peer
        self._timeouts_ms[session_id] = timeout_ms
        self._touch(session_id)
        self._send(peer, encode_connected(timeout_ms, session_id, password, knows_read_only=knows_read_only))

    def _touch(self, session_id: int) -> None:
        self._deadlines_ms[session_id] = self._now_ms() + self._timeouts_ms[session_id]

    def _end_session(self, session_id: int) -> None:
        del self._deadlines_ms[session_id], self._timeouts_ms[session_id]
        self._commit((EndSession(session_id),))

    # Requests: each returns the body of its reply, or raises RequestRefusedError.

    def _handle(self, peer: Peer, request: Request) -> bytes:
        match request:
            case Exists() | GetData() | GetChildren() | MultiRead() | GetAcl():
                return self._read(peer, request)
            case Create() | Delete() | SetData() | SetAcl() | Check():
                return self._write(peer, request)
            case Multi(operations=operations):
                return self._multi(peer, operations)
            case Sync(path=path):
                return encode_string(path)
            case SetWatches():
                return self._set_watches(peer, request)
            case TakeBackWatches(path=path, watcher_type=watcher_type, is_removal=is_removal):
                self._watches.take_back(path, watcher_type, peer, is_removal=is_removal)
                return b""
            case Auth():
                return self._authenticate(peer, request)
            case CloseSession():
                self._end_session(peer.session_id)
                return b""
            case GetEphemerals(prefix=prefix):
                paths = self.tree.ephemerals_of(peer.session_id)
                return encode_strings([path for path in paths if path.startswith(prefix)])
            case CountDescendants(path=path):
                find(self.tree, path)
                prefix = path.rstrip("/") + "/"
                return encode_int(sum(other.startswith(prefix) for other in self.tree.nodes if other != "/"))
            case WhoAmI():
                return _encode_identities(peer)
            case Ping():
                return b""

    def _read(self, peer: Peer, request: Exists | GetData | GetChildren | MultiRead | GetAcl) -> bytes:
        tree = self.tree
        match request:
            case Exists(path=path, watch=watch):
                if watch:
                    self._watches.watch_data(path, peer)
                return find(tree, path).encode_stat()
            case GetData(path=path, watch=watch):
                node = find(tree, path)
                check_acl(node.acl, Permission.READ, peer.identities)
                if watch:
                    self._watches.watch_data(path, peer)
                return encode_buffer(node.data) + node.encode_stat()
            case GetChildren(path=path, watch=watch, wants_stat=wants_stat):
                node = find(tree, path)
                check_acl(node.acl, Permission.READ, peer.identities)
                if watch:
                    self._watches.watch_children(path, peer)
                names = encode_strings(list(node.children))
                return names + node.encode_stat() if wants_stat else names
            case GetAcl(path=path):
                node = find(tree, path)
                acl = node.acl
                check_acl(acl, Permission.READ | Permission.ADMIN, peer.identities)
                try:
                    check_acl(acl, Permission.ADMIN, peer.identities)
                except RequestRefusedError:
                    acl = without_hashes(acl)
                return encode_acl(acl) + node.encode_stat()
            case MultiRead(operations=operations):
                return encode_results([self._read_one(peer, operation) for operation in operations])

    def _read_one(self, peer: Peer, request: GetData | GetChildren) -> bytes:
        kind = Operation.GET_DATA if isinstance(request, GetData) else Operation.GET_CHILDREN
        try:
            return encode_result(kind, self._read(peer, request))
        except RequestRefusedError as error:
            return encode_error_result(error.code)

    def _write(self, peer: Peer, request: Write) -> bytes:
        change = plan(self.tree, request, peer.session_id, peer.identities)
        if change is None:
            return find(self.tree, request.path).encode_stat()
        self._commit((change,))
        return self._outcome(request, change)[1]

    def _multi(self, peer: Peer, operations: Sequence[Write]) -> bytes:
        tree = self.tree
        zxid, wall_ms = tree.zxid + 1, self._wall_ms()
        changes: list[Change] = []
        undos: list[Callable[[], None]] = []
        results: list[bytes] = []
        for request in operations:
            try:
                change = plan(tree, request, peer.session_id, peer.identities)
            except RequestRefusedError as error:
                for undo in reversed(undos):
                    undo()
                return _encode_refused_multi(len(operations), len(results), error.code)
            if change is not None:
                changes.append(change)
                undos.append(tree.apply_change(change, zxid, wall_ms))
            results.append(encode_result(*self._outcome(request, change)))
        if changes:
            tree.zxid = zxid
            self._announce(Transaction(zxid, wall_ms, tuple(changes)), [])
        return encode_results(results)

    def _outcome(self, request: Write, change: Change | None) -> tuple[Operation, bytes]:
        """The operation of a write that was done, and the body of its reply."""
        match request, change:
            case Create(wants_stat=wants_stat), CreateNode(path=path):
                if wants_stat:
                    return Operation.CREATE2, encode_string(path) + self.tree.nodes[path].encode_stat()
                return Operation.CREATE, encode_string(path)
            case Delete(), _:
                return Operation.DELETE, b""
            case Check(), _:
                return Operation.CHECK, b""
            case SetAcl(path=path), _:
                return Operation.SET_ACL, self.tree.nodes[path].encode_stat()
            case _:
                return Operation.SET_DATA, self.tree.nodes[request.path].encode_stat()

    def _authenticate(self, peer: Peer, request: Auth) -> bytes:
        if request.scheme == "digest":
            peer.identities[digest_identity(request.credentials)] = None
        elif request.scheme not in ("ip", "world"):
            raise RequestRefusedError(Code.AUTH_FAILED)
        return b""

    def _set_watches(self, peer: Peer, request: SetWatches) -> bytes:
        """Report at once what has happened since the client's last connection; watch the rest."""
        nodes, seen = self.tree.nodes, request.relative_zxid
        for path in request.data:
            node = nodes.get(path)
            if node is None:
                self._tell(peer, Event.NODE_DELETED, path)
            elif node.modified_zxid > seen:
                self._tell(peer, Event.NODE_DATA_CHANGED, path)
            else:
                self._watches.watch_data(path, peer)
        for path in request.exist:
            if path in nodes:
                self._tell(peer, Event.NODE_CREATED, path)
            else:
                self._watches.watch_data(path, peer)
        for path in request.children:
            node = nodes.get(path)
            if node is None:
                self._tell(peer, Event.NODE_DELETED, path)
            elif node.children_zxid > seen:
                self._tell(peer, Event.NODE_CHILDREN_CHANGED, path)
            else:
                self._watches.watch_children(path, peer)
        return b""

    # What all of them use.

    def _commit(self, changes: tuple[Change, ...]) -> None:
        transaction = Transaction(self.tree.zxid + 1, self._wall_ms(), changes)
        gone = [
            path
            for change in changes
            if isinstance(change, EndSession)
            for path in self.tree.ephemerals_of(change.session_id)
        ]
        self.tree.apply(transaction)
        self._announce(transaction, gone)

    def _announce(self, transaction: Transaction, gone: Sequence[str]) -> None:
        """Log it, and tell those who watch; ``gone`` are the ephemeral nodes that went with a session."""
        self._effects.append(Append(encode_transaction(transaction)))
        watches = self._watches
        if not watches.count:
            return
        for change in transaction.changes:
            match change:
                case CreateNode(path=path):
                    events = watches.created(path, split_path(path)[0])
                case DeleteNode(path=path):
                    events = watches.deleted(path, split_path(path)[0])
                case SetNodeData(path=path):
                    events = watches.changed(path)
                case _:
                    continue
            for watcher, event, path in events:
                self._tell(watcher, event, path)
        for lost in gone:
            for watcher, event, path in watches.deleted(lost, split_path(lost)[0]):
                self._tell(watcher, event, path)

    def _tell(self, peer: Peer, event: Event, path: str) -> None:
        self._send(peer, encode_event(event, path))

    def _send(self, peer: Peer, frame: bytes) -> None:
        self._effects.append(Send(peer, frame))

    def _close(self, peer: Peer) -> None:
        if peer.is_open:
            self.disconnected(peer)
            self._effects.append(Close(peer))

    def _now_ms(self) -> float:
        return self._clock.monotonic_seconds() * 1000

    def _wall_ms(self) -> int:
        return int(self._clock.wall_seconds() * 1000)


def _encode_refused_multi(count: int, index: int, code: Code) -> bytes:
    """None was done: those before the refused one were fine, those behind it were not tried."""
    codes = [Code.OK] * index + [code] + [Code.RUNTIME_INCONSISTENCY] * (count - index - 1)
    return encode_results(map(encode_error_result, codes))


def _encode_identities(peer: Peer) -> bytes:
    parts = [encode_int(len(peer.identities))]
    for identity in peer.identities:
        user = identity.name.partition(":")[0] if identity.scheme == "digest" else identity.name
        parts += encode_string(identity.scheme), encode_string(user)
    return b"".join(parts)
