"""Which replica is asked."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.partition import Partition
from metaserver.client.replica_choice import ReplicaChoice
from metaserver.registry.paths import Replica

MASTER, FIRST, SECOND = Replica(0), Replica(0, 0), Replica(0, 1)
ALL = (MASTER, FIRST, SECOND)
PARTITION = Partition("t", 0, 0)
MANY = [Partition("t", 0, number) for number in range(12)]


def choice(seed: int = 0, **options: object) -> ReplicaChoice:
    return ReplicaChoice(random=random.Random(seed), **options)  # type: ignore[arg-type]


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 40), st.floats(0, 1e6))
def test_shares_are_even(seed: int, replicas: int, partitions: int, now: float) -> None:
    chosen = choice(seed)
    counts = Counter(
        chosen.choose(Partition("t", 0, number), ALL[:replicas], now) for number in range(partitions)
    )
    assert sum(counts.values()) == partitions
    assert max(counts.values()) - min(counts[replica] for replica in ALL[:replicas]) <= 1


def test_one_partition_is_served_by_all_in_turn() -> None:
    chosen = choice(deal_seconds=20.0)
    found = [chosen.choose(PARTITION, ALL, 20.0 * deal) for deal in range(6)]
    assert set(found[:3]) == set(ALL)
    assert found[:3] == found[3:]
    assert len({chosen.choose(PARTITION, ALL, 20.0 + second) for second in range(20)}) == 1


def test_two_consumers_do_not_begin_at_the_same() -> None:
    assert len({choice(seed).choose(PARTITION, ALL, 0.0) for seed in range(20)}) == 3


def test_only_those_that_are_wanted_while_they_are_there() -> None:
    assert {choice(seed, read_from="master").choose(PARTITION, ALL, 0.0) for seed in range(20)} == {MASTER}
    slaves = {choice(seed, read_from="slave").choose(PARTITION, ALL, 0.0) for seed in range(20)}
    assert slaves == {FIRST, SECOND}
    assert choice(read_from="slave").choose(PARTITION, (MASTER,), 0.0) == MASTER
    assert choice(read_from="master").choose(PARTITION, (FIRST,), 0.0) == FIRST
    assert choice().choose(PARTITION, (), 0.0) is None


def test_who_lags_is_left_for_that_partition_and_returned_to() -> None:
    chosen = choice(read_from="slave")
    chosen.lags(FIRST, PARTITION, 0.0)
    assert {chosen.choose(PARTITION, (MASTER, FIRST), now) for now in (0.0, 0.4)} == {MASTER}
    assert chosen.choose(MANY[1], (MASTER, FIRST), 0.0) == FIRST
    assert chosen.choose(PARTITION, (MASTER, FIRST), 1.1) == FIRST


def test_who_is_away_is_left_for_all() -> None:
    chosen = choice(read_from="slave")
    chosen.is_away(FIRST, 0.0)
    assert {chosen.choose(partition, (MASTER, FIRST), 0.0) for partition in MANY} == {MASTER}
    assert chosen.choose(PARTITION, (FIRST,), 0.0) is None
    assert {chosen.choose(partition, (MASTER, FIRST), 1.1) for partition in MANY} == {FIRST}


def test_who_is_back_is_asked_at_once_unless_it_lags() -> None:
    chosen = choice()
    chosen.is_away(FIRST, 0.0)
    chosen.is_back(FIRST)
    assert chosen.choose(PARTITION, (FIRST,), 0.0) == FIRST
    chosen.lags(FIRST, PARTITION, 0.0)
    chosen.is_back(FIRST)
    assert chosen.choose(PARTITION, (FIRST,), 0.0) is None
    chosen.is_back(SECOND)


@pytest.mark.parametrize("is_all", [False, True])
def test_who_is_left_again_and_again_is_left_for_longer_until_it_serves(is_all: bool) -> None:
    chosen = choice()
    now, pauses = 0.0, []
    for _ in range(8):
        if is_all:
            chosen.is_away(FIRST, now)
        else:
            chosen.lags(FIRST, PARTITION, now)
        began = now
        while chosen.choose(PARTITION, (FIRST,), now) is None:
            now += 0.01
        pauses.append(now - began)
    assert 0.4 < pauses[0] <= 1.1
    assert 7.0 < pauses[-1] <= 15.1
    chosen.served(FIRST, PARTITION)
    chosen.lags(FIRST, PARTITION, now)
    assert chosen.choose(PARTITION, (FIRST,), now + 1.1) == FIRST


def test_one_failure_told_twice_counts_once() -> None:
    chosen = choice()
    for _ in range(10):
        chosen.is_away(FIRST, 0.0)
    assert chosen.choose(PARTITION, (FIRST,), 1.1) == FIRST


def test_nothing_is_kept_of_a_partition_that_is_not_read_any_more() -> None:
    chosen = choice()
    for partition in MANY:
        chosen.choose(partition, ALL, 0.0)
        chosen.lags(FIRST, partition, 0.0)
        chosen.forget(partition)
    assert (chosen._starts, chosen._left, chosen._backoffs) == ({}, {}, {})
