"""The registry without sockets and disk: order of effects, the log, limits, and time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.registry.embedded.codes import MalformedError
from metaserver.registry.embedded.delivery import Delivery
from metaserver.registry.embedded.node import OPEN_ACL, encode_acl
from metaserver.registry.embedded.records import Loader, encode_snapshot, encode_transaction, load
from metaserver.registry.embedded.registry import (
    Append,
    Close,
    Compact,
    Effect,
    Peer,
    Registry,
    RegistryOptions,
    Send,
)
from metaserver.registry.embedded.transactions import CreateNode, DeleteNode, SetNodeAcl, SetNodeData
from metaserver.registry.embedded.transactions import Transaction as Transaction_
from metaserver.registry.embedded.tree import Tree
from tests.registry.wire import ACL, Create, Delete, Exists, GetData, SetData, Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.registry.embedded.transactions import Change

OPTIONS = RegistryOptions(tick_ms=100, sessions_max=3, watches_per_connection_max=2)


@attrs.define
class Clock:
    """Stands still until told."""

    seconds: float = 1000.0

    def wall_seconds(self) -> float:
        return 1.7e9 + self.seconds

    def monotonic_seconds(self) -> float:
        return self.seconds


@attrs.define(eq=False)
class World:
    """A registry, its clock, and everything it did."""

    tree: Tree = attrs.Factory(Tree)
    clock: Clock = attrs.Factory(Clock)
    registry: Registry = attrs.field(init=False)
    effects: list[Effect] = attrs.Factory(list)
    _xids: itertools.count[int] = attrs.Factory(lambda: itertools.count(1))

    def __attrs_post_init__(self) -> None:
        self.registry = Registry(self.tree, OPTIONS, self.clock, lambda size: b"p" * size)

    @property
    def records(self) -> list[bytes]:
        """What was appended, snapshots included."""
        found: list[bytes] = []
        for effect in self.effects:
            if isinstance(effect, Append):
                found.append(effect.record)
            elif isinstance(effect, Compact):
                found += effect.records
        return found

    def take(self) -> list[Effect]:
        taken = self.registry.take_effects()
        self.effects += taken
        return taken

    def connect(self, *, session_id: int = 0, timeout_ms: int = 200) -> Peer:
        peer = self.registry.connected("127.0.0.1")
        password = (b"p" if session_id else b"\0") * 16
        frame = bytes(12) + timeout_ms.to_bytes(4, "big") + session_id.to_bytes(8, "big")
        self.registry.received(peer, frame + len(password).to_bytes(4, "big") + password)
        return peer

    def ask(self, peer: Peer, request: object) -> list[Effect]:
        data: bytes = request.serialize()  # type: ignore[attr-defined] # kazoo's classes share no type
        kind: int = request.type  # type: ignore[attr-defined] # the same
        header = next(self._xids).to_bytes(4, "big") + kind.to_bytes(4, "big", signed=True)
        self.registry.received(peer, header + data)
        return self.take()

    def tick(self, seconds: float = 0.1) -> list[Effect]:
        self.clock.seconds += seconds
        self.registry.tick()
        return self.take()


def test_a_write_is_appended_before_anyone_hears_of_it() -> None:
    world = World()
    writer, watcher = world.connect(), world.connect()
    world.ask(writer, Create("/a", b"", ACL, 0))
    world.ask(watcher, GetData("/a", True))
    kinds = [
        (type(effect), getattr(effect, "peer", None)) for effect in world.ask(writer, SetData("/a", b"1", -1))
    ]
    assert kinds == [(Append, None), (Send, watcher), (Send, writer)]


def test_refused_writes_are_not_logged() -> None:
    world = World()
    peer = world.connect()
    world.take()
    for request in (Delete("/none", -1), Transaction([Create("/a", b"", ACL, 0), Delete("/b", -1)])):
        assert [type(effect) for effect in world.ask(peer, request)] == [Send]
    assert "/a" not in world.tree.nodes


def test_sessions_expire_by_the_clock_and_pings_keep_them() -> None:
    world = World()
    silent, alive = world.connect(), world.connect()
    world.ask(silent, Create("/mine", b"", ACL, 1))
    for _ in range(3):
        world.registry.received(alive, b"\xff\xff\xff\xfe\0\0\0\x0b")
        world.tick()
    assert "/mine" not in world.tree.nodes
    assert (silent.is_open, alive.is_open) == (False, True)
    assert Close(silent) in world.effects
    assert world.registry.session_count == 1


def test_sessions_do_not_expire_because_this_process_stood_still() -> None:
    world = World()
    peer = world.connect()
    world.tick()
    world.tick(seconds=60.0)
    assert peer.is_open
    for _ in range(3):
        world.tick()
    assert not peer.is_open


def test_sessions_from_the_log_have_their_whole_timeout() -> None:
    world = World()
    first = world.connect(timeout_ms=2000)
    world.take()
    again = World(tree=load(world.records))
    for _ in range(19):
        again.tick()
    assert again.registry.session_count == 1
    assert again.connect(session_id=first.session_id).session_id == first.session_id
    assert again.connect().session_id > first.session_id


def test_a_session_that_moves_leaves_its_old_connection() -> None:
    world = World()
    old = world.connect()
    world.take()
    new = world.connect(session_id=old.session_id)
    taken = world.take()
    assert taken[0] == Close(old)
    assert (old.is_open, new.is_open) == (False, True)
    world.registry.disconnected(old)
    assert new.is_open


def test_limits_of_sessions_and_watches() -> None:
    world = World()
    peers = [world.connect() for _ in range(4)]
    assert [peer.is_open for peer in peers] == [True, True, True, False]
    for path in ("/a", "/b", "/c"):
        world.ask(peers[0], Exists(path, True))
    assert not peers[0].is_open
    assert world.registry.watch_count == 0


def test_requests_that_are_none_end_the_connection() -> None:
    world = World()
    peer = world.connect()
    world.take()
    world.registry.received(peer, b"\0\0\0")
    assert world.take() == [Close(peer)]
    stranger = world.registry.connected("127.0.0.1")
    world.registry.received(stranger, b"\0\0\0")
    assert world.take() == [Close(stranger)]


# The log.

paths = st.sampled_from(["/a", "/b", "/a/a", "/a/b", "/a/a/a"])
requests = st.one_of(
    st.builds(Create, paths, st.none() | st.binary(max_size=3), st.just(ACL), st.integers(0, 3)),
    st.builds(Delete, paths, st.integers(-1, 1)),
    st.builds(SetData, paths, st.none() | st.binary(max_size=3), st.integers(-1, 1)),
)
steps = st.one_of(
    requests,
    st.lists(requests, min_size=1, max_size=3).map(Transaction),
    st.sampled_from(["compact", "expire"]),
)


def play(world: World, script: Sequence[object]) -> None:
    peer = world.connect()
    for step in script:
        if step == "compact":
            world.registry.compact()
        elif step == "expire":
            world.tick(0.19)
            world.tick(0.19)
            peer = world.connect()
        else:
            world.ask(peer, step)
    world.take()


@given(script=st.lists(steps, max_size=30))
def test_the_log_is_the_registry(script: list[object]) -> None:
    world = World()
    play(world, script)
    assert encode_snapshot(load(world.records)) == encode_snapshot(world.tree)


@given(script=st.lists(steps, max_size=20), data=st.data())
def test_a_log_that_begins_with_a_snapshot_is_enough(script: list[object], data: st.DataObject) -> None:
    world = World()
    play(world, script[: len(script) // 2])
    world.effects.clear()
    world.registry.compact()
    play(world, script[len(script) // 2 :])
    records = world.records
    assert encode_snapshot(load(records)) == encode_snapshot(world.tree)
    # A crash in the middle of a snapshot: what was before it counts.
    torn = encode_snapshot(world.tree)
    cut = data.draw(st.integers(0, len(torn) - 1))
    assert encode_snapshot(load([*records, *torn[:cut]])) == encode_snapshot(world.tree)


def test_a_log_that_lacks_a_transaction_is_not_loaded() -> None:
    world = World()
    peer = world.connect()
    for name in "abc":
        world.ask(peer, Create(f"/{name}", b"", ACL, 0))
    records = world.records
    with pytest.raises(MalformedError):
        load([records[0], *records[2:]])
    with pytest.raises(MalformedError):
        load(encode_snapshot(world.tree)[1:])
    begin, *_, end = encode_snapshot(Tree())
    with pytest.raises(MalformedError):
        load([begin, records[0], end])
    with pytest.raises(MalformedError):
        load([begin, end])
    with pytest.raises(MalformedError):
        Loader().feed(b"\x09")


def test_a_log_that_contradicts_itself_is_not_loaded() -> None:
    changes: list[Change] = [
        CreateNode("/none/child", b"", OPEN_ACL, 0),
        DeleteNode("/none"),
        SetNodeData("/none", b""),
        SetNodeAcl("/none", OPEN_ACL),
    ]
    for change in changes:
        record = encode_transaction(Transaction_(1, 0, (change,)))
        with pytest.raises(MalformedError, match="none"):
            load([record])
    begin, nodes, end = encode_snapshot(Tree())
    orphan = nodes.replace(b"/zookeeper/quota", b"/nobody---/quota")
    with pytest.raises(MalformedError, match="without its parent"):
        load([begin, orphan, end])


def test_each_start_begins_an_epoch_beyond_all_that_was_told() -> None:
    world = World()
    world.registry.begin_epoch()
    peer = world.connect()
    world.ask(peer, Create("/a", b"", ACL, 0))
    first = world.tree.zxid
    assert first >> 32 == int(world.clock.wall_seconds()) // 60, "the minutes since 1970"
    for start in (1, 2):
        again = World(tree=load(world.records))
        again.registry.begin_epoch()
        again.take()
        assert again.tree.zxid == ((first >> 32) + start) << 32
        world.effects += again.effects
    assert load(world.records).zxid == again.tree.zxid

    # A copy that missed this epoch, promoted a minute later, is ahead of everybody all the same.
    copy = World(clock=attrs.evolve(world.clock, seconds=world.clock.seconds + 180))
    copy.registry.begin_epoch()
    assert copy.tree.zxid > again.tree.zxid

    wrong = World(clock=Clock(1e15))
    wrong.registry.begin_epoch()
    wrong.registry.begin_epoch()
    assert wrong.tree.zxid < 2**63


def test_only_the_beginning_of_an_epoch_may_jump() -> None:
    make = CreateNode("/a", b"", OPEN_ACL, 0)
    assert Transaction_(6, 0, (make,)).follows(5)
    assert not Transaction_(7, 0, (make,)).follows(5)
    assert not Transaction_(1 << 32, 0, (make,)).follows(5)
    assert Transaction_(1 << 32, 0, (make,)).follows((1 << 32) - 1)
    assert Transaction_(3 << 32, 0, ()).follows((1 << 32) + 5)
    assert not Transaction_(1 << 32, 0, ()).follows((1 << 32) + 5)
    assert not Transaction_((1 << 32) + 7, 0, ()).follows((1 << 32) + 5)


def test_a_start_ends_the_session_that_has_the_owners_name() -> None:
    world = World()
    owner, other = world.connect(), world.connect()
    world.ask(owner, Create("/name", b"", ACL, 1))
    world.ask(owner, Create("/more", b"", ACL, 1))
    world.ask(other, Create("/others", b"", ACL, 1))
    again = World(tree=load(world.records))
    again.registry.end_session_of("/name")
    again.registry.end_session_of("/none")
    again.registry.end_session_of("/zookeeper")
    assert set(again.tree.sessions) == {other.session_id}
    assert "/others" in again.tree.nodes
    assert not {"/name", "/more"} & set(again.tree.nodes)
    for _ in range(3):
        again.tick()
    assert again.registry.session_count == 0


def test_a_start_ends_the_sessions_that_have_the_owners_address() -> None:
    world = World()
    owner, other = world.connect(), world.connect()
    world.ask(owner, Create("/ids", b"", ACL, 0))
    world.ask(owner, Create("/ids/slave0", b"meta://own:1", ACL, 1))
    world.ask(owner, Create("/more", b"", ACL, 1))
    world.ask(other, Create("/ids/slave1", b"meta://other:1", ACL, 1))
    world.ask(other, Create("/ids/kept", b"meta://own:1", ACL, 0))
    world.ask(other, Create("/elsewhere", b"meta://own:1", ACL, 1))
    again = World(tree=load(world.records))
    again.registry.end_sessions_beside("/ids/master", b"meta://own:1")
    again.registry.end_sessions_beside("/none/master", b"meta://own:1")
    assert set(again.tree.sessions) == {other.session_id}
    assert {"/ids/slave1", "/ids/kept", "/elsewhere"} <= set(again.tree.nodes)
    assert not {"/ids/slave0", "/more"} & set(again.tree.nodes)


def test_most_access_lists_take_four_bytes_in_the_log() -> None:
    world = World()
    peer = world.connect()
    (append, _send) = world.ask(peer, Create("/a", b"", ACL, 0))[-2:]
    assert isinstance(append, Append)
    assert encode_acl(OPEN_ACL)[4:] not in append.record


# Delivery.


@given(
    script=st.lists(
        st.sampled_from(["append", "send", "compact", "next", "durable"]), min_size=1, max_size=60
    )
)
def test_nothing_leaves_before_what_is_in_front_of_it(script: list[str]) -> None:
    delivery, peer = Delivery(), Peer("x")
    batch = None
    made = safe = 0  # Records, and records known to be durable.
    expected: list[tuple[int, Send]] = []
    for number, step in enumerate(script):
        if step == "append":
            made += 1
            delivery.add([Append(b"%d" % made)])
        elif step == "compact":
            made += 1
            delivery.add([Compact([b"%d" % made, b"%d" % made])])
        elif step == "send":
            effect = Send(peer, b"%d" % number)
            expected.append((made, effect))
            delivery.add([effect])
        elif step == "next":
            taken = delivery.next_batch()
            assert taken is None or batch is None
            if taken is not None:
                batch = taken
                assert int(batch.records[0]) == safe + 1
        elif batch is not None:
            delivery.durable(batch)
            safe, batch = int(batch.records[-1]), None
        due = [effect for needed, effect in expected if needed <= safe]
        assert delivery.released() == due
        expected = expected[len(due) :]
    assert delivery.held_count == len(expected)
