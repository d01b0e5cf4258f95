"""A member's place in its group, with a registry in memory and in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from metaserver.client.membership import Broadcast, Membership
from metaserver.client.partition import Partition
from metaserver.errors import ConnectionLostError, OffsetStorageError, OffsetUnreadableError
from tests.client.registry_fake import FakeNodes, FakeRegistry
from tests.client.wires import Wires, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from trio.testing import MockClock

    from metaserver.errors import ClientError

    Join: TypeAlias = Callable[[str], "Member"]

IDS, OWNERS = "/meta/consumers/g/ids", "/meta/consumers/g/owners/t"
ALL = [Partition("t", 0, number) for number in range(4)]


@attrs.define(eq=False)
class FakeHolder:
    held: set[Partition] = attrs.Factory(set)
    log: list[tuple[str, tuple[int, ...]]] = attrs.Factory(list)
    failure: ClientError | None = None
    """What taking a partition raises."""
    busy: trio.Event | None = None
    """Giving back, and taking, waits for it."""

    async def take(self, partitions: Sequence[Partition]) -> None:
        await self._wait()
        bad = self.failure.partitions if isinstance(self.failure, OffsetUnreadableError) else partitions
        if self.failure is not None and set(bad) & set(partitions):
            raise self.failure
        self.held.update(partitions)
        self.log.append(("take", tuple(p.number for p in partitions)))

    async def release(self, partitions: Sequence[Partition], *, is_lost: bool) -> None:
        await self._wait()
        self.held.difference_update(partitions)
        self.log.append(("lose" if is_lost else "release", tuple(p.number for p in partitions)))

    async def _wait(self) -> None:
        if self.busy is not None:
            await self.busy.wait()


@attrs.define(eq=False)
class Member:
    """A client of its own, with its own connection to the registry."""

    registry: FakeRegistry
    name: str
    nursery: trio.Nursery
    topics: tuple[str, ...] = ("t",)
    wires: Wires = attrs.Factory(Wires)
    holder: FakeHolder = attrs.Factory(FakeHolder)
    nodes: FakeNodes = attrs.field(init=False)
    membership: Membership = attrs.field(init=False)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self.wires.broker()
        self.wires.announce("t", {0: 4})
        discovery = self.wires.discovery
        self.nodes = self.registry.open(discovery.wake)
        discovery._nodes = self.nodes.as_nodes()
        self.membership = Membership("g", self.name, self.topics, discovery, self.holder)

    async def start(self) -> None:
        self.nursery.start_soon(self._run)
        await settle()

    async def leave(self) -> None:
        self.scope.cancel()
        await settle()
        await self.membership.leave()
        await settle()

    async def _run(self) -> None:
        with self.scope:
            await self.membership.run()

    @property
    def numbers(self) -> list[int]:
        assert self.holder.held == set(self.membership.held)
        return sorted(partition.number for partition in self.holder.held)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
async def join(registry: FakeRegistry, nursery: trio.Nursery) -> Join:
    return lambda name: Member(registry, name, nursery)


def owners(registry: FakeRegistry) -> dict[str, str]:
    return {name: data.decode() for name, data in registry.below(OWNERS).items()}


async def test_one_member_has_everything_and_leaves_nothing(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    assert one.membership.is_settled.is_set()
    assert (one.numbers, one.membership.problem) == ([0, 1, 2, 3], "")
    assert registry.below(IDS) == {"a": b"t"}
    assert owners(registry) == dict.fromkeys(["0-0", "0-1", "0-2", "0-3"], "a")
    await one.leave()
    assert (one.numbers, registry.nodes) == ([], {})
    assert one.wires.discovery._listeners == {}


async def test_only_what_must_move_moves(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    await one.start()
    await two.start()
    await trio.sleep(2.0)
    assert (one.numbers, two.numbers) == ([0, 1], [2, 3])
    assert one.holder.log == [("take", (0, 1, 2, 3)), ("release", (2, 3))]
    assert two.holder.log == [("take", (2, 3))]
    await one.leave()
    await trio.sleep(2.0)
    assert two.holder.log == [("take", (2, 3)), ("take", (0, 1))]


async def test_who_gives_back_is_waited_for(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    await one.start()
    one.holder.busy = trio.Event()
    await two.start()
    await trio.sleep(60.0)
    assert two.numbers == []
    assert two.membership.problem == "2 partitions are still another member's"
    assert owners(registry) == dict.fromkeys(["0-0", "0-1", "0-2", "0-3"], "a")
    one.holder.busy.set()
    await trio.sleep(2.0)
    assert (one.numbers, two.numbers) == ([0, 1], [2, 3])
    assert two.membership.problem == ""


async def test_a_member_of_another_topic_shares_nothing(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    registry.put(f"{IDS}/0", b"u,v", 77)
    registry.put(f"{IDS}/1", b"\xff", 77)
    one = join("a")
    await one.start()
    assert one.numbers == [0, 1, 2, 3]


async def test_a_session_that_ended_is_replaced_and_consuming_goes_on(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    session = one.nodes.session
    assert session is not None
    one.nodes.disconnect()
    await trio.sleep(60.0)
    assert one.numbers == [0, 1, 2, 3]
    assert one.membership.problem
    registry.end(session)
    one.nodes.connect(is_new=True)
    await settle()
    assert one.holder.log == [("take", (0, 1, 2, 3))]
    assert {node.owner for node in registry.nodes.values()} == {session + 1}
    assert owners(registry) == dict.fromkeys(["0-0", "0-1", "0-2", "0-3"], "a")


async def test_what_others_took_while_the_session_had_ended_is_lost(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    await one.start()
    session = one.nodes.session
    assert session is not None
    one.nodes.disconnect()
    registry.end(session)
    await two.start()
    await trio.sleep(2.0)
    assert two.numbers == [0, 1, 2, 3]
    one.nodes.connect(is_new=True)
    await trio.sleep(5.0)
    # Of 2 and 3 the other may have stored offsets by now: those of this member are not to be stored.
    assert one.holder.log[1] == ("lose", (2, 3))
    assert (one.numbers, two.numbers) == ([0, 1], [2, 3])
    assert sorted(owners(registry).items()) == [("0-0", "a"), ("0-1", "a"), ("0-2", "b"), ("0-3", "b")]


async def test_claims_of_a_session_whose_end_nobody_has_noticed_are_taken_over(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    registry.put(f"{IDS}/a", b"t", 77)
    registry.put(f"{OWNERS}/0-0", b"a", 77)
    registry.put(f"{OWNERS}/0-1", b"a", 0)
    one = join("a")
    await one.start()
    assert one.numbers == [0, 1, 2, 3]
    assert {node.owner for node in registry.nodes.values()} == {one.nodes.session}


async def test_a_claim_that_somebody_removed_is_made_again(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    del registry.nodes[f"{OWNERS}/0-1"]
    await trio.sleep(40.0)
    assert owners(registry)["0-1"] == "a"
    assert one.holder.log == [("take", (0, 1, 2, 3))]


async def test_a_claim_that_another_took_over_is_lost(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    registry.put(f"{OWNERS}/0-1", b"java", 77)
    await trio.sleep(40.0)
    assert one.holder.log[1:] == [("lose", (1,))]
    assert one.numbers == [0, 2, 3]
    registry.end(77)
    await trio.sleep(2.0)
    assert one.numbers == [0, 1, 2, 3]


async def test_what_leaves_in_the_same_look_as_an_audit_is_free(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    await one.start()
    # While the registry is away the time for an audit comes; with its return another member is there.
    one.nodes.disconnect()
    await trio.sleep(100.0)
    await two.start()
    one.nodes.connect()
    await trio.sleep(2.0)
    assert (one.numbers, two.numbers) == ([0, 1], [2, 3])


@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_a_claim_whose_removal_failed_is_removed_later(
    registry: FakeRegistry, join: Join, is_carried_out: bool, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    await one.start()

    def fail(call: str) -> None:
        if call == "remove":
            one.nodes.before = one.nodes.after = lambda _call: None
            raise ConnectionLostError("fake", "for a moment")

    if is_carried_out:
        one.nodes.after = fail
    else:
        one.nodes.before = fail
    await two.start()
    await trio.sleep(5.0)
    assert (one.numbers, two.numbers) == ([0, 1], [2, 3])
    assert one.holder.log == [("take", (0, 1, 2, 3)), ("release", (2, 3))]


async def test_a_claim_without_an_answer_is_our_own(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")

    def fail(call: str) -> None:
        if call == "claim" and owners(registry):
            one.nodes.after = lambda _call: None
            raise ConnectionLostError("fake", "for a moment")

    one.nodes.after = fail
    await one.start()
    await trio.sleep(1.0)
    assert one.numbers == [0, 1, 2, 3]


async def test_offsets_that_cannot_be_read_are_asked_for_again(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    one.holder.failure = OffsetStorageError("there", "broken")
    await one.start()
    before = len(one.nodes.calls)
    await trio.sleep(60.0)
    assert "broken" in one.membership.problem
    assert len(one.nodes.calls) - before < 60 * 10
    assert not one.membership.is_settled.is_set()
    one.holder.failure = None
    await trio.sleep(4.0)
    assert (one.numbers, one.membership.problem) == ([0, 1, 2, 3], "")


async def test_who_cannot_begin_with_a_partition_gives_it_to_another(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    one.holder.failure = OffsetStorageError("there", "broken")
    await one.start()
    await two.start()
    await trio.sleep(5.0)
    assert (one.numbers, two.numbers) == ([], [2, 3])


async def test_one_offset_that_cannot_be_read_keeps_no_other_partition(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    one.holder.failure = OffsetUnreadableError("there", "garbage", (ALL[2],))
    await one.start()
    await trio.sleep(5.0)
    assert one.numbers == [0, 1, 3]
    assert "garbage" in one.membership.problem
    one.holder.failure = None
    await trio.sleep(5.0)
    assert one.numbers == [0, 1, 2, 3]


@pytest.mark.parametrize("call", ["children", "read", "claim", "take"])
async def test_who_leaves_in_the_middle_of_joining_leaves_nothing(
    registry: FakeRegistry, join: Join, call: str, autojump_clock: MockClock
) -> None:
    one = join("a")

    def cancel(at: str) -> None:
        if at == call:
            one.scope.cancel()

    one.nodes.after = cancel
    if call == "take":
        one.holder.busy = trio.Event()
    await one.start()
    one.scope.cancel()
    await settle()
    one.holder.busy = None
    await one.membership.leave()
    assert registry.nodes == {}


async def test_who_leaves_in_the_middle_of_giving_back_leaves_nothing(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one, two = join("a"), join("b")
    await one.start()
    one.nodes.after = lambda call: one.scope.cancel() if call == "remove" else None
    one.nodes.before = lambda call: one.scope.cancel() if call == "read" and two.numbers == [] else None
    await two.start()
    await settle()
    one.nodes.after = one.nodes.before = lambda _call: None
    await one.leave()
    await trio.sleep(2.0)
    assert two.numbers == [0, 1, 2, 3]


async def test_who_leaves_while_the_connection_is_gone_for_a_moment_leaves_nothing(
    registry: FakeRegistry, join: Join, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    one.nodes.disconnect()
    nursery.start_soon(one.leave)
    await trio.sleep(1.0)
    one.nodes.connect()
    await trio.sleep(2.0)
    assert (one.numbers, registry.nodes) == ([], {})


async def test_leaving_does_not_wait_long_for_a_registry_that_is_away(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    one.nodes.disconnect()
    began = trio.current_time()
    await one.leave()
    assert trio.current_time() - began < 5.0
    assert one.numbers == []


async def test_partitions_that_come_are_taken_and_those_that_go_are_given_back(
    registry: FakeRegistry, join: Join, autojump_clock: MockClock
) -> None:
    one = join("a")
    await one.start()
    one.wires.announce("t", {0: 6})
    await settle()
    one.wires.announce("t", {0: 3})
    await settle()
    assert one.holder.log[1:] == [("take", (4, 5)), ("release", (3, 4, 5))]
    assert sorted(owners(registry)) == ["0-0", "0-1", "0-2"]


async def test_a_broadcast_has_everything_and_tries_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wires, holder = Wires(), FakeHolder()
    wires.broker()
    wires.announce("t", {0: 2})
    holder.failure = OffsetStorageError("there", "broken")
    broadcast = Broadcast(("t",), wires.discovery, holder)
    nursery.start_soon(broadcast.run)
    await trio.sleep(10.0)
    assert "broken" in broadcast.problem
    holder.failure = None
    await trio.sleep(4.0)
    assert (broadcast.problem, holder.held) == ("", set(ALL[:2]))
    wires.announce("t", {0: 3})
    await settle()
    assert holder.log[-1] == ("take", (2,))
    await broadcast.leave()
    assert holder.held == set()
