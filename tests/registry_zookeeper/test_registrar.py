"""The registrar on a ZooKeeper in memory, in virtual time: whatever happens, the layout comes out right."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import ZooKeeperConfig
from metaserver.registry.paths import Layout, Replica, StoredOffset
from metaserver.registry.registrar import Registrar
from metaserver.registry.registration import (
    Create,
    Delete,
    ExistingNode,
    Registration,
    Retire,
    TopicRegistration,
    Write,
)
from tests.registry_zookeeper.fake_tree import FakeZooKeeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

SYNC_SECONDS = 5.0
ADDRESS = b"meta://10.0.0.1:8123"
RIVAL = b"meta://10.0.0.2:8123"
CLAIM = "/meta/brokers/ids/0/master"
CHECKSUM = "/meta/brokers/ids/0/master_config_checksum"
RETURNS_SECONDS_MAX = 10.0
"""The longest pause between two tries."""
AUDIT_SECONDS_MAX = 61.0
OWN_ORDER = [CLAIM, "/meta/brokers/ids/0", CHECKSUM]


class Entry(NamedTuple):
    """A node of the reference's table."""

    data: bytes
    is_ephemeral: bool


@attrs.define(eq=False)
class World:
    """A broker's wishes, its registrar, and the ZooKeeper."""

    replica: Replica = attrs.Factory(lambda: Replica(0))
    checksum: int = 4242
    topics: dict[str, TopicRegistration] = attrs.Factory(
        lambda: {"t": TopicRegistration("t", 4), "dyn*": TopicRegistration("dyn*", 1)}
    )
    zookeeper: FakeZooKeeper = attrs.Factory(FakeZooKeeper)
    when_asked: Callable[[], None] = lambda: None
    """Called at each pass, when the registrar asks what is wanted."""
    registrar: Registrar = attrs.field(init=False)

    @registrar.default
    def _make_registrar(self) -> Registrar:
        return Registrar(self.wanted, Random(1), Layout("/meta"), SYNC_SECONDS, "fake", self.zookeeper.open)

    def wanted(self) -> Registration:
        answer = Registration(self.replica, "10.0.0.1", 8123, self.checksum, tuple(self.topics.values()))
        self.when_asked()
        return answer

    def set_topic(self, *topics: TopicRegistration) -> None:
        self.topics |= {topic.topic: topic for topic in topics}
        self.registrar.wake()

    @property
    def session(self) -> int:
        session = self.zookeeper.trees[0].session
        assert session is not None
        return session

    def expected(self) -> dict[str, Entry]:
        """Section 1 of the reference, written once more."""
        number, who = self.replica.broker_id, str(self.replica)
        if self.replica.slave_id is None:
            found = {
                f"/meta/brokers/ids/{number}": Entry(ADDRESS, is_ephemeral=False),
                f"/meta/brokers/ids/{number}/master": Entry(ADDRESS, is_ephemeral=True),
                f"/meta/brokers/ids/{number}/master_config_checksum": Entry(
                    b"%d" % self.checksum, is_ephemeral=True
                ),
            }
        else:
            found = {
                f"/meta/brokers/ids/{number}/slave{self.replica.slave_id}": Entry(ADDRESS, is_ephemeral=True)
            }
        for name, topic in self.topics.items():
            data = b'{"numParts":%d,"broker":"%b"}' % (topic.partition_count, who.encode())
            found[f"/meta/brokers/topics/{name}/{who}"] = Entry(
                b"%d" % topic.partition_count, is_ephemeral=True
            )
            if topic.accept_publish:
                found[f"/meta/brokers/topics-pub/{name}/{who}"] = Entry(data, is_ephemeral=True)
            if topic.accept_subscribe:
                found[f"/meta/brokers/topics-sub/{name}/{who}"] = Entry(data, is_ephemeral=True)
        return found

    def found(self) -> dict[str, Entry]:
        """All but the parents, which are persistent and hold null."""
        return {
            path: Entry(node.data, node.owner != 0)
            for path, node in self.zookeeper.nodes.items()
            if node.owner or node.data
        }

    def ours(self) -> dict[str, bytes]:
        return {path: node.data for path, node in self.zookeeper.nodes.items() if node.owner == self.session}

    async def settle(self, seconds: float = RETURNS_SECONDS_MAX + 1) -> None:
        await trio.sleep(seconds)


def in_virtual_time(world: World, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.registrar.run)
            with trio.fail_after(3600):
                await test(world)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture(params=[Replica(0), Replica(3, 1)], ids=["master", "slave"])
def world(request: pytest.FixtureRequest) -> World:
    return World(replica=request.param)


def test_the_layout(world: World) -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        assert world.found() == world.expected()
        report = world.registrar.report()
        assert (report.is_registered, report.problem, report.topics) == (True, "", 2)

    in_virtual_time(world, test)


def test_the_order_of_a_registration() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        paths = [action.path for action in world.zookeeper.done]
        assert paths[:3] == OWN_ORDER
        assert paths[3:6] == [
            f"/meta/brokers/{tree}/t/0-m" for tree in ("topics", "topics-pub", "topics-sub")
        ]

    in_virtual_time(World(), test)


def test_nothing_is_written_where_nothing_has_changed(world: World) -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        world.zookeeper.done.clear()
        for _ in range(3):
            world.registrar.wake()
            await world.settle()
        await world.settle(AUDIT_SECONDS_MAX)
        world.zookeeper.set_up(is_up=False)
        await world.settle()
        assert not world.registrar.report().is_registered
        world.zookeeper.set_up(is_up=True)
        await world.settle()
        assert world.registrar.report().is_registered
        assert world.zookeeper.done == []

    in_virtual_time(world, test)


def test_a_change_touches_only_what_it_concerns() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        done = world.zookeeper.done
        done.clear()
        world.set_topic(TopicRegistration("dynamo", 1))
        await world.settle()
        assert {action.path.split("/")[4] for action in done} == {"dynamo"}
        done.clear()
        world.set_topic(TopicRegistration("t", 4, accept_publish=False))
        await world.settle()
        assert done == [Delete("/meta/brokers/topics-pub/t/0-m")]
        done.clear()
        world.set_topic(TopicRegistration("t", 8, accept_publish=False))
        await world.settle()
        # Java clients watch which nodes there are, not what they hold: a new count must be a new node.
        assert done == [
            Delete("/meta/brokers/topics/t/0-m"),
            Create("/meta/brokers/topics/t/0-m", b"8"),
            Delete("/meta/brokers/topics-sub/t/0-m"),
            Create("/meta/brokers/topics-sub/t/0-m", b'{"numParts":8,"broker":"0-m"}'),
        ]
        done.clear()
        world.checksum = 7
        world.registrar.wake()
        await world.settle()
        assert done == [Write(CHECKSUM, b"7")]
        del world.topics["t"]
        world.registrar.wake()
        await world.settle()
        assert world.found() == world.expected()

    in_virtual_time(World(), test)


def test_an_expired_session_comes_back_at_once(world: World) -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        old = world.session
        world.zookeeper.expire(old)
        await world.settle(1)
        assert world.session != old
        assert world.found() == world.expected()
        assert world.registrar.report().is_registered

    in_virtual_time(world, test)


def test_a_broker_is_not_registered_while_it_registers_again() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        told: list[bool] = []
        world.when_asked = lambda: told.append(world.registrar.report().is_registered)
        world.zookeeper.expire(world.session)
        await world.settle(1)
        world.registrar.wake()
        await world.settle(1)
        assert told[0] is False
        assert told[-1] is True

    in_virtual_time(World(), test)


@pytest.mark.parametrize("moment", [CLAIM, "/meta/brokers/topics/t/0-m"])
def test_a_session_that_ends_in_the_middle_makes_nothing_twice(moment: str) -> None:
    world = World()

    async def test(world: World) -> None:
        await world.registrar.wait_registered()

        def expire(paths: Sequence[str]) -> None:
            if moment in paths:
                world.zookeeper.before_read = lambda _paths: None
                world.zookeeper.expire(world.session)
                world.zookeeper.done.clear()

        world.zookeeper.before_read = expire
        world.set_topic(TopicRegistration("t", 9))
        await world.settle(5)
        made = [action.path for action in world.zookeeper.done]
        # The persistent node has stayed.
        assert len(made) == len(set(made)) == 2 + 2 * 3
        assert world.found() == world.expected()

    in_virtual_time(world, test)


def test_no_topic_is_registered_under_a_name_that_was_lost_in_the_middle() -> None:
    world = World()

    async def test(world: World) -> None:
        await world.registrar.wait_registered()

        def lose_the_name(paths: Sequence[str]) -> None:
            if "/meta/brokers/topics/t/0-m" in paths:
                world.zookeeper.before_read = lambda _paths: None
                world.zookeeper.expire(world.session)
                world.zookeeper.put(CLAIM, RIVAL, world.zookeeper.new_session())

        world.zookeeper.before_read = lose_the_name
        world.set_topic(TopicRegistration("t", 9))
        await world.settle()
        assert world.ours() == {}
        assert "10.0.0.2:8123" in world.registrar.report().problem

    in_virtual_time(world, test)


def test_a_wish_that_comes_during_a_pass_is_not_lost() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()

        def wish() -> None:
            world.when_asked = lambda: None
            world.set_topic(TopicRegistration("new", 2))

        world.when_asked = wish
        world.registrar.wake()
        await world.settle(1)
        assert world.found() == world.expected()

    in_virtual_time(World(), test)


def test_what_was_lost_during_an_interruption_returns_with_the_connection() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        world.zookeeper.set_up(is_up=False)
        await world.settle(1)
        world.zookeeper.remove("/meta/brokers/topics-sub/t/0-m")
        world.zookeeper.set_up(is_up=True)
        await world.settle(1)
        assert world.found() == world.expected()

    in_virtual_time(World(), test)


def test_ten_minutes_without_a_zookeeper_that_has_forgotten_everything(world: World) -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        old = world.session
        world.zookeeper.set_up(is_up=False)
        world.set_topic(TopicRegistration("new", 2))
        await world.settle(600)
        report = world.registrar.report()
        assert not report.is_connected
        assert "fake" in report.problem
        world.zookeeper.nodes.clear()
        world.zookeeper.expire(old)
        world.zookeeper.set_up(is_up=True)
        await world.settle(1)
        assert world.found() == world.expected()

    in_virtual_time(world, test)


def test_a_zookeeper_that_is_down_at_the_start(world: World) -> None:
    async def test(world: World) -> None:
        await world.settle(120)
        report = world.registrar.report()
        assert not report.is_registered
        assert "fake" in report.problem
        world.zookeeper.set_up(is_up=True)
        await world.registrar.wait_registered()
        assert world.found() == world.expected()

    world.zookeeper.set_up(is_up=False)
    in_virtual_time(world, test)


def test_nodes_of_a_crashed_process_are_taken_over(world: World) -> None:
    before = world.zookeeper.new_session()
    for path, entry in world.expected().items():
        world.zookeeper.put(
            path, entry.data if "/ids/" in path else b"1", before if entry.is_ephemeral else 0
        )

    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        assert world.found() == world.expected()
        assert set(world.ours()) == {path for path, entry in world.expected().items() if entry.is_ephemeral}
        world.zookeeper.expire(before)
        assert world.found() == world.expected()

    in_virtual_time(world, test)


@pytest.mark.parametrize("address", ["10.0.0.2:8123", "[2001:db8::2]:8123"])
def test_another_broker_of_the_same_name_is_left_alone_and_waited_for(address: str) -> None:
    world = World()
    rival = world.zookeeper.new_session()
    world.zookeeper.put(CLAIM, f"meta://{address}".encode(), rival)
    world.zookeeper.put("/meta/brokers/topics/t/0-m", b"9", rival)
    before = dict(world.zookeeper.nodes)

    async def test(world: World) -> None:
        await world.settle(300)
        assert world.zookeeper.nodes == before
        report = world.registrar.report()
        assert report.is_connected
        assert not report.is_registered
        assert f"another broker, {address}, is registered" in report.problem
        world.zookeeper.expire(rival)
        await world.settle(1)
        assert world.found() == world.expected()
        assert world.registrar.report().is_registered

    in_virtual_time(world, test)


def test_who_has_the_name_is_told_while_it_is_waited_for_and_is_a_rival_afterwards() -> None:
    world = World()
    first, second = world.zookeeper.new_session(), world.zookeeper.new_session()
    world.zookeeper.put(CLAIM, RIVAL, first)
    holders, rivals = list[str](), list[str]()
    world.registrar.on_holder, world.registrar.on_rival = holders.append, rivals.append

    async def test(world: World) -> None:
        await world.settle()
        assert set(holders) == {"10.0.0.2:8123"}
        holders.clear()
        world.zookeeper.expire(first)
        world.zookeeper.put(CLAIM, b"meta://10.0.0.3:8123", second)
        await world.settle()
        assert holders[-1] == "10.0.0.3:8123"
        assert rivals == []
        world.zookeeper.expire(second)
        await world.settle()
        assert world.registrar.report().is_registered
        holders.clear()
        world.zookeeper.put(CLAIM, RIVAL, world.zookeeper.new_session())
        world.registrar.wake()
        await world.settle()
        assert holders == []
        assert set(rivals) == {"10.0.0.2:8123 is registered as master of broker 0"}

    in_virtual_time(world, test)


def test_a_persistent_node_in_the_place_of_the_claim_is_reported() -> None:
    world = World()
    world.zookeeper.put(CLAIM, RIVAL, 0)

    async def test(world: World) -> None:
        await world.settle()
        assert "persistent" in world.registrar.report().problem

    in_virtual_time(world, test)


def test_a_node_that_somebody_deletes_returns() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        # The broker's own nodes are watched from the second look on.
        world.registrar.wake()
        await world.settle(1)
        world.zookeeper.remove(CHECKSUM)
        world.zookeeper.remove(CLAIM)
        await world.settle(1)
        assert world.found() == world.expected()
        world.zookeeper.remove("/meta/brokers/topics-sub/t/0-m")
        await world.settle(AUDIT_SECONDS_MAX)
        assert world.found() == world.expected()

    in_virtual_time(World(), test)


def test_one_refused_topic_does_not_keep_the_others_away() -> None:
    world = World()
    refused = "/meta/brokers/topics-pub/t/0-m"
    world.zookeeper.refused.add(refused)

    async def test(world: World) -> None:
        await world.settle()
        assert world.found() == {path: e for path, e in world.expected().items() if path != refused}
        assert refused in world.registrar.report().problem
        assert world.registrar.report().topics == 1
        world.zookeeper.refused.clear()
        await world.settle()
        assert world.found() == world.expected()

    in_virtual_time(world, test)


def test_a_stop_removes_everything_in_the_references_order() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        world.zookeeper.done.clear()
        began = trio.current_time()
        await world.registrar.stop()
        assert SYNC_SECONDS <= trio.current_time() - began < SYNC_SECONDS + 1
        done = world.zookeeper.done
        assert done[:3] == [Delete(CLAIM), Delete(CHECKSUM), Retire("/meta/brokers/ids/0")]
        assert len(done) == 3 + 2 * 3
        assert world.found() == {}
        assert not world.registrar.report().is_registered

    in_virtual_time(World(), test)


def test_a_stop_tries_each_node() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        world.zookeeper.done.clear()
        world.zookeeper.refused.add(CHECKSUM)
        began = trio.current_time()
        await world.registrar.stop()
        assert trio.current_time() - began >= SYNC_SECONDS
        assert len(world.zookeeper.done) == 2 + 2 * 3

    in_virtual_time(World(), test)


@pytest.mark.parametrize("has_noticed", [False, True])
def test_a_stop_leaves_the_nodes_of_who_took_the_name(has_noticed: bool) -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        zookeeper = world.zookeeper
        zookeeper.nodes[CLAIM] = ExistingNode(RIVAL, zookeeper.new_session())
        zookeeper.nodes["/meta/brokers/ids/0"] = ExistingNode(RIVAL, 0)
        if has_noticed:
            world.registrar.wake()
            await world.settle()
            assert "10.0.0.2:8123" in world.registrar.report().problem
        await world.registrar.stop()
        assert world.found() == {
            CLAIM: Entry(RIVAL, is_ephemeral=True),
            "/meta/brokers/ids/0": Entry(RIVAL, is_ephemeral=False),
        }

    in_virtual_time(World(), test)


def test_a_stop_leaves_empty_text_where_there_are_slaves() -> None:
    world = World()
    slave = "/meta/brokers/ids/0/slave1"
    world.zookeeper.put(slave, RIVAL, world.zookeeper.new_session())

    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        await world.registrar.stop()
        assert world.found() == {slave: Entry(RIVAL, is_ephemeral=True)}
        assert world.zookeeper.nodes["/meta/brokers/ids/0"] == ExistingNode(b"", 0)

    in_virtual_time(world, test)


def test_a_stopping_slave_leaves_the_masters_nodes() -> None:
    world = World(replica=Replica(0, 1))
    world.zookeeper.put(CLAIM, RIVAL, world.zookeeper.new_session())
    world.zookeeper.put("/meta/brokers/ids/0", RIVAL, 0)
    before = dict(world.zookeeper.nodes)

    async def test(world: World) -> None:
        await world.registrar.wait_registered()
        await world.registrar.stop()
        assert world.found() == {path: Entry(n.data, n.owner != 0) for path, n in before.items() if n.data}

    in_virtual_time(world, test)


@pytest.mark.parametrize("has_rival", [False, True])
def test_a_stop_without_a_registration_does_not_wait(has_rival: bool) -> None:
    world = World()
    if has_rival:
        world.zookeeper.put(CLAIM, RIVAL, world.zookeeper.new_session())
    else:
        world.zookeeper.set_up(is_up=False)
    before = dict(world.zookeeper.nodes)

    async def test(world: World) -> None:
        await world.settle()
        began = trio.current_time()
        await world.registrar.stop()
        assert trio.current_time() - began < 1
        assert world.zookeeper.nodes == before

    in_virtual_time(world, test)


def test_a_cancelled_registrar_ends_its_session() -> None:
    async def test(world: World) -> None:
        await world.registrar.wait_registered()

    world = World()
    in_virtual_time(world, test)
    assert not any(node.owner for node in world.zookeeper.nodes.values())


def test_a_blank_connect_is_no_zookeeper() -> None:
    with pytest.raises(ValueError, match="zkConnect"):
        Registrar.for_zookeeper(ZooKeeperConfig(), World().wanted, Random(1))


# Any history of faults ends in the reference's table.

TOPIC_NAMES = ("a", "b*", "c")
TOPICS = st.builds(
    TopicRegistration, st.sampled_from(TOPIC_NAMES), st.integers(1, 3), st.booleans(), st.booleans()
)
EVENTS = st.one_of(
    st.tuples(st.just("topic"), TOPICS),
    st.tuples(st.just("no topic"), st.sampled_from(TOPIC_NAMES)),
    st.tuples(st.just("checksum"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["expire", "down", "up", "rival", "stale", "remove"]), st.integers(0, 9)),
    st.tuples(st.just("lose"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.06, 1.0, 70.0])),
)


@attrs.define
class History:
    """Lets one event after another happen to a world."""

    world: World
    others: list[int] = attrs.Factory(list)
    """Sessions that are not the registrar's."""

    async def happen(self, kind: str, value: object) -> None:
        match kind, value:
            case "wait", float():
                await trio.sleep(value)
            case "lose", int():
                self.world.zookeeper.failing = value
            case "topic", TopicRegistration():
                self.world.set_topic(value)
            case "no topic", str():
                self.world.topics.pop(value, None)
                self.world.registrar.wake()
            case "checksum", int():
                self.world.checksum = value
                self.world.registrar.wake()
            case _, int():
                self.intrude(kind, value)

    def intrude(self, kind: str, value: int) -> None:
        zookeeper, replica = self.world.zookeeper, self.world.replica
        match kind:
            case "expire":
                zookeeper.expire(zookeeper.trees[0].session or 0)
            case "down" | "up":
                zookeeper.set_up(is_up=kind == "up")
            case "rival":
                name = "master" if replica.slave_id is None else f"slave{replica.slave_id}"
                self.leave_behind(f"/meta/brokers/ids/0/{name}", RIVAL)
            case "stale":
                self.leave_behind(f"/meta/brokers/topics/{TOPIC_NAMES[value % 3]}/{replica}", b"1")
            case "remove":
                leaves = sorted(path for path, node in zookeeper.nodes.items() if node.owner)
                if leaves:
                    zookeeper.remove(leaves[value % len(leaves)])

    def leave_behind(self, path: str, data: bytes) -> None:
        zookeeper = self.world.zookeeper
        if path not in zookeeper.nodes:
            self.others.append(zookeeper.new_session())
            zookeeper.put(path, data, self.others[-1])

    def heal(self) -> None:
        self.world.zookeeper.failing = 0
        for session in self.others:
            self.world.zookeeper.expire(session)
        self.world.zookeeper.set_up(is_up=True)


@given(st.sampled_from([Replica(0), Replica(0, 1)]), st.lists(EVENTS, max_size=12))
def test_every_history_ends_well(replica: Replica, events: Sequence[tuple[str, object]]) -> None:
    async def test(world: World) -> None:
        await trio.lowlevel.checkpoint()
        history = History(world)
        for kind, value in events:
            await history.happen(kind, value)
        history.heal()
        await world.settle(AUDIT_SECONDS_MAX + RETURNS_SECONDS_MAX)
        assert world.found() == world.expected()
        assert world.registrar.report().is_registered
        await world.registrar.stop()
        assert world.found() == {}

    in_virtual_time(World(replica=replica, topics={}), test)


GROUP = "/meta/consumers/g/offsets/t"


def is_beyond_100(topic: str, partition: int, stored: StoredOffset) -> int | None:
    return 100 if (topic, partition) == ("t", 0) and stored.offset > 100 else None


async def test_a_new_master_brings_back_groups_that_had_come_further(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = World()
    world.registrar.judge = is_beyond_100
    stored = {"0-0": b"77-150", "0-1": b"77-150", "1-0": b"77-150", "0-2": b"nothing", "odd": b"77-150"}
    for name, data in stored.items():
        world.zookeeper.put(f"{GROUP}/{name}", data, 0)
    world.zookeeper.put("/meta/consumers/behind/offsets/t/0-0", b"5-100", 0)
    nursery.start_soon(world.registrar.run)
    await world.registrar.wait_registered()
    found = {name: world.zookeeper.nodes[f"{GROUP}/{name}"].data for name in stored}
    assert found == stored | {"0-0": b"-1-100"}
    assert world.zookeeper.nodes["/meta/consumers/behind/offsets/t/0-0"].data == b"5-100"
    # Before anybody is told of its topics, and once.
    paths = [action.path for action in world.zookeeper.done]
    assert paths.index(CLAIM) < paths.index(f"{GROUP}/0-0") < paths.index("/meta/brokers/topics/t/0-m")
    world.zookeeper.put(f"{GROUP}/0-0", b"78-200", 0)
    world.set_topic(TopicRegistration("u", 1))
    await trio.sleep(AUDIT_SECONDS_MAX)
    assert world.zookeeper.nodes[f"{GROUP}/0-0"].data == b"78-200"


async def behind_the_same_message(topic: str, partition: int, stored: StoredOffset) -> StoredOffset | None:
    await trio.sleep(1)
    return StoredOffset(stored.offset + 30, stored.message_id) if (topic, partition) == ("t", 0) else None


async def test_a_master_of_a_pair_moves_groups_to_where_their_messages_are(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = World()
    world.registrar.relocate = behind_the_same_message
    world.registrar.judge = is_beyond_100
    world.zookeeper.put(f"{GROUP}/0-0", b"-77-60", 0)
    world.zookeeper.put("/meta/consumers/h/offsets/t/0-0", b"78-90", 0)
    nursery.start_soon(world.registrar.run)
    await world.registrar.wait_registered()
    assert world.zookeeper.nodes[f"{GROUP}/0-0"].data == b"-77-90"
    assert world.zookeeper.nodes["/meta/consumers/h/offsets/t/0-0"].data == b"-1-100"
    paths = [action.path for action in world.zookeeper.done]
    assert paths.index(CLAIM) < paths.index(f"{GROUP}/0-0") < paths.index("/meta/brokers/topics/t/0-m")


async def test_who_has_not_the_name_leaves_the_groups_alone(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = World()
    world.registrar.judge = is_beyond_100
    world.zookeeper.put(CLAIM, RIVAL, 99)
    world.zookeeper.put(f"{GROUP}/0-0", b"77-150", 0)
    nursery.start_soon(world.registrar.run)
    await trio.sleep(2)
    assert world.zookeeper.nodes[f"{GROUP}/0-0"].data == b"77-150"
