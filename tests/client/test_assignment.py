"""Who consumes what: MetaQ's rules against plain models, and against values worked out by hand."""

from __future__ import annotations

import functools
import hashlib
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.assignment import Change, assign_blocks, assign_consistently, change, share
from metaserver.client.partition import Partition

MEMBERS = st.lists(st.text("abc-_0123456789", min_size=1, max_size=8), min_size=1, max_size=8, unique=True)


def partitions(count: int, brokers: int = 1) -> list[Partition]:
    found = [Partition("t", number % brokers, number // brokers) for number in range(count)]
    return sorted(found, key=lambda partition: str(partition.in_topic))


@given(MEMBERS.map(sorted), st.integers(0, 40))
def test_blocks_are_whole_contiguous_and_even(members: list[str], count: int) -> None:
    every = partitions(count)
    shares = [assign_blocks(member, members, every) for member in members]
    assert functools.reduce(operator.iadd, shares, []) == every
    sizes = [len(one) for one in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(MEMBERS.map(sorted), st.integers(0, 40))
def test_blocks_are_those_of_a_naive_deal(members: list[str], count: int) -> None:
    every = partitions(count)
    # Deal one after another to learn the sizes, then cut the line.
    sizes = dict.fromkeys(members, 0)
    for number in range(count):
        sizes[members[number % len(members)]] += 1
    rest = list(every)
    for member in members:
        mine, rest = rest[: sizes[member]], rest[sizes[member] :]
        assert assign_blocks(member, members, every) == mine


def test_who_is_no_member_has_nothing() -> None:
    assert assign_blocks("x", ["a"], partitions(3)) == []
    assert assign_blocks("x", [], partitions(3)) == []
    assert assign_consistently("x", ["a"], partitions(3)) == []
    assert assign_consistently("x", [], partitions(3)) == []


@pytest.mark.parametrize(("count", "expected"), [(7, [3, 2, 2]), (2, [1, 1, 0]), (0, [0, 0, 0])])
def test_blocks_by_hand(count: int, expected: list[int]) -> None:
    assert [len(assign_blocks(member, ["a", "b", "c"], partitions(count))) for member in "abc"] == expected


def owner_by_the_written_rule(name: str, members: list[str]) -> str:
    """Reference client-consumer.md, 4.4, word by word and slowly."""
    points = {}
    for member in members:
        for group in range(40):
            digest = hashlib.md5(f"{member}-{group}".encode()).digest()
            for quarter in range(4):
                points[int.from_bytes(digest[4 * quarter : 4 * quarter + 4], "little")] = member
    wanted = int.from_bytes(hashlib.md5(name.encode()).digest()[:4], "little")
    behind = [point for point in points if point >= wanted]
    return points[min(behind or points)]


@given(MEMBERS.map(sorted), st.integers(1, 24), st.integers(1, 3))
def test_on_the_ring_every_partition_has_the_owner_of_the_written_rule(
    members: list[str], count: int, brokers: int
) -> None:
    every = partitions(count, brokers)
    owners = {p: member for member in members for p in assign_consistently(member, members, every)}
    assert sum(len(assign_consistently(member, members, every)) for member in members) == count
    assert owners == {p: owner_by_the_written_rule(str(p.in_topic), members) for p in every}


def test_the_ring_by_golden_values() -> None:
    members = ["g_10.0.0.1-1", "g_10.0.0.2-1", "g_10.0.0.3-1"]
    owners = {
        str(p.in_topic): members.index(member)
        for member in members
        for p in assign_consistently(member, members, partitions(8))
    }
    assert owners == GOLDEN


@given(MEMBERS.filter(lambda members: len(members) > 1).map(sorted), st.data())
def test_when_a_member_leaves_the_ring_only_its_partitions_move(
    members: list[str], data: st.DataObject
) -> None:
    every = partitions(30)
    gone = data.draw(st.sampled_from(members))
    left = [member for member in members if member != gone]
    for member in left:
        before, after = (assign_consistently(member, some, every) for some in (members, left))
        assert set(before) <= set(after)
        assert set(after) - set(before) <= set(assign_consistently(gone, members, every))


def test_each_topic_is_shared_by_its_own_members() -> None:
    topics = {"a": ("t", "u"), "b": ("t",), "c": ("v",)}
    t, u = partitions(4), [Partition("u", 0, 0)]
    assert share("a", topics, {"t": t, "u": u}) == [*t[:2], *u]
    assert share("b", topics, {"t": t, "u": u}) == t[2:]
    assert share("c", topics, {"v": []}) == []
    assert share("stranger", topics, {"t": t}) == []
    assert share("a", {"a": ("t", "t")}, {"t": t}) == t


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True))
def test_a_change_is_what_must_move(held: list[int], wanted: list[int]) -> None:
    now, then = ([Partition("t", 0, number) for number in some] for some in (held, wanted))
    step = change(now, then)
    assert set(step.release).isdisjoint(then)
    assert (set(now) - set(step.release)) | set(step.claim) == set(then)
    assert set(step.claim).isdisjoint(now)
    assert (step == Change((), ())) == (set(now) == set(then))


GOLDEN = {"0-0": 1, "0-1": 0, "0-2": 2, "0-3": 2, "0-4": 2, "0-5": 2, "0-6": 1, "0-7": 1}
