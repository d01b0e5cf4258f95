"""Which puts are released by which reports, against a model that recounts everything each time."""

from __future__ import annotations

from itertools import count

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from metaserver.broker.replica_acks import (
    PRESENCE_SECONDS_MIN,
    SLAVES_MAX,
    AckRule,
    Position,
    ReplicaAcks,
    SlaveName,
    WaitingPut,
)
from metaserver.names import AckLevel

ONE = AckRule(AckLevel.SLAVE_DISK, 1, 10.0)
TWO = AckRule(AckLevel.SLAVE_DISK, 2, 10.0)
IN_MEMORY = AckRule(AckLevel.SLAVE, 1, 10.0)
KEY, OTHER_KEY = ("t", 0), ("t", 1)
A, B = SlaveName("g", 1), SlaveName("g", 2)


def put(end_offset: int, messages: int = 1) -> WaitingPut:
    def nothing(*_: object) -> None: ...

    return WaitingPut(end_offset, messages, nothing, nothing, nothing)


def ends(puts: list[WaitingPut]) -> list[int]:
    return [one.end_offset for one in puts]


@attrs.define
class Bench:
    """Two slaves on connections of their own."""

    acks: ReplicaAcks = attrs.Factory(ReplicaAcks)

    def wait(self, *ends: int, rule: AckRule = ONE, now: float = 0.0) -> None:
        for end in ends:
            self.acks.wait(KEY, rule, put(end), now)

    def report(
        self, slave: SlaveName, memory: int, disk: int, *, over: object = None, now: float = 0.0
    ) -> list[int]:
        assert self.acks.hear(slave, over or slave, now)
        return ends(self.acks.report(slave, [(KEY, Position(memory, disk))]))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_put_waits_for_its_last_byte(bench: Bench) -> None:
    bench.wait(100, 200, 300)
    assert bench.report(A, 250, 99) == []
    assert bench.report(A, 250, 100) == [100]
    assert bench.acks.waiting_count == 2
    assert bench.report(A, 300, 300) == [200, 300]
    assert bench.acks.waiting_count == 0
    assert bench.acks.waiting() == []


def test_memory_is_enough_where_it_is_asked_for(bench: Bench) -> None:
    bench.wait(100, rule=IN_MEMORY)
    assert bench.report(A, 100, 0) == [100]


def test_one_slave_does_not_count_twice(bench: Bench) -> None:
    bench.wait(100, rule=TWO)
    assert bench.report(A, 100, 100) == []
    assert bench.report(A, 100, 100) == []
    assert bench.report(A, 100, 100, over="another connection") == []
    assert bench.acks.confirmed_count(KEY, AckLevel.SLAVE_DISK, 100) == 1
    assert bench.report(B, 100, 100) == [100]


def test_the_second_best_counts_where_two_are_asked_for(bench: Bench) -> None:
    bench.wait(100, 200, 300, rule=TWO)
    bench.report(A, 300, 300)
    assert bench.report(B, 200, 200) == [100, 200]
    assert bench.acks.confirmed_offset(KEY, TWO) == 200
    assert bench.acks.confirmed_offset(KEY, ONE) == 300


def test_partitions_are_told_apart(bench: Bench) -> None:
    bench.acks.wait(OTHER_KEY, ONE, put(100), 0.0)
    assert bench.report(A, 100, 100) == []
    assert bench.acks.reported_count(OTHER_KEY) == 0
    assert bench.acks.reported_count(KEY) == 1


def test_what_a_slave_had_is_forgotten_with_its_connection(bench: Bench) -> None:
    bench.report(A, 500, 500, over="first")
    bench.acks.disconnected("first")
    bench.wait(100, rule=TWO)
    assert bench.report(B, 100, 100) == [], "the other one may come back without these bytes"
    assert not bench.acks.has_reported("first")
    assert bench.report(A, 100, 100, over="second") == [100]


def test_a_late_close_of_an_old_connection_is_nothing_to_the_new_one(bench: Bench) -> None:
    bench.report(A, 100, 100, over="first")
    bench.report(A, 100, 100, over="second")
    bench.acks.disconnected("first")
    assert bench.acks.has_reported("second")
    assert bench.acks.confirmed_offset(KEY, ONE) == 100


def test_a_slave_over_a_new_connection_proves_each_partition_anew(bench: Bench) -> None:
    bench.report(A, 500, 500, over="first")
    assert bench.acks.hear(A, "second", 1.0)
    assert bench.acks.confirmed_offset(KEY, ONE) == 0


def test_the_last_report_counts_also_where_it_is_less(bench: Bench) -> None:
    bench.report(A, 500, 400)
    bench.report(A, 400, 400)
    bench.wait(450, rule=IN_MEMORY)
    assert bench.acks.confirmed_count(KEY, AckLevel.SLAVE, 450) == 0


def test_two_connections_of_one_name_are_noticed(bench: Bench) -> None:
    assert not bench.acks.is_elsewhere(A, "first")
    bench.report(A, 100, 100, over="first")
    assert not bench.acks.is_elsewhere(A, "first")
    assert bench.acks.is_elsewhere(A, "second")
    bench.acks.disconnected("first")
    assert not bench.acks.is_elsewhere(A, "second")


def test_presence_outlives_a_connection_for_a_while(bench: Bench) -> None:
    assert bench.acks.present_count(ONE, 0.0) == 0
    bench.report(A, 0, 0, now=100.0)
    bench.acks.disconnected(A)
    assert bench.acks.present_count(ONE, 110.0) == 1
    assert bench.acks.present_count(ONE, 110.1) == 0
    hasty = attrs.evolve(ONE, timeout_seconds=0.01)
    assert bench.acks.present_count(hasty, 100.0 + PRESENCE_SECONDS_MIN) == 1
    assert bench.acks.present_count(hasty, 100.1 + PRESENCE_SECONDS_MIN) == 0


def test_puts_whose_time_is_over_leave_in_order(bench: Bench) -> None:
    bench.wait(100, now=0.0)
    bench.wait(200, now=1.0)
    bench.wait(300, now=2.0)
    assert bench.acks.expire(KEY, ONE, 9.9) == ([], 10.0)
    expired, due = bench.acks.expire(KEY, ONE, 11.0)
    assert (ends(expired), due) == ([100, 200], 12.0)
    assert bench.report(A, 300, 300) == [300]
    assert bench.acks.expire(KEY, ONE, 99.0) == ([], None)


def test_a_changed_rule_is_for_later_puts(bench: Bench) -> None:
    bench.wait(100, rule=TWO)
    bench.wait(200, rule=ONE)
    assert bench.report(A, 200, 200) == [200]
    assert bench.report(B, 200, 200) == [100]


def test_no_more_slaves_than_it_can_bear(bench: Bench) -> None:
    for number in range(SLAVES_MAX):
        assert bench.acks.hear(SlaveName("g", number), number, float(number))
    assert not bench.acks.hear(SlaveName("h", 0), "x", 99.0)
    assert bench.acks.hear(SlaveName("g", 0), 0, 99.0), "who is known goes on"
    bench.acks.disconnected(1)
    bench.acks.disconnected(2)
    assert bench.acks.hear(SlaveName("h", 0), "x", 99.0), "in the place of one that has left"
    assert {SlaveName("g", 1), SlaveName("h", 0)} & {slave.name for slave in bench.acks.slaves} == {
        SlaveName("h", 0)
    }


RULES = [
    AckRule(level, slaves_min, timeout_seconds)
    for level in (AckLevel.SLAVE, AckLevel.SLAVE_DISK)
    for slaves_min in (1, 2)
    for timeout_seconds in (5.0,)
]


class Model(RuleBasedStateMachine):
    """A put is released exactly when enough slaves have last reported as much, over open connections."""

    def __init__(self) -> None:
        super().__init__()
        self.acks = ReplicaAcks()
        self.now = 0.0
        self.end = {KEY: 0, OTHER_KEY: 0}
        self.waiting: list[tuple[tuple[str, int], AckRule, WaitingPut]] = []
        self.reported: dict[SlaveName, dict[tuple[str, int], Position]] = {}
        self.connections: dict[SlaveName, int] = {}
        self.numbers = count()

    @rule(key=st.sampled_from([KEY, OTHER_KEY]), ack_rule=st.sampled_from(RULES), size=st.integers(1, 50))
    def put(self, key: tuple[str, int], ack_rule: AckRule, size: int) -> None:
        self.end[key] += size
        one = put(self.end[key], size)
        self.acks.wait(key, ack_rule, one, self.now)
        self.waiting.append((key, ack_rule, one))

    @rule(slave=st.sampled_from([A, B]))
    def connect(self, slave: SlaveName) -> None:
        self.connections[slave] = next(self.numbers)
        self.reported[slave] = {}
        assert self.acks.hear(slave, self.connections[slave], self.now)

    @rule(slave=st.sampled_from([A, B]))
    def disconnect(self, slave: SlaveName) -> None:
        if slave in self.connections:
            self.acks.disconnected(self.connections.pop(slave))
            self.reported[slave] = {}

    @rule(slave=st.sampled_from([A, B]), data=st.data(), key=st.sampled_from([KEY, OTHER_KEY]))
    def report(self, slave: SlaveName, data: st.DataObject, key: tuple[str, int]) -> None:
        if slave not in self.connections:
            return
        memory = data.draw(st.integers(0, self.end[key]))
        position = Position(memory, data.draw(st.integers(0, memory)))
        self.reported[slave][key] = position
        assert self.acks.hear(slave, self.connections[slave], self.now)
        released = self.acks.report(slave, [(key, position)])
        expected = [one for one in self.waiting if one[0] == key and self._is_confirmed(*one)]
        assert {id(one) for one in released} == {id(one) for _, _, one in expected}
        for ack_rule in RULES:
            of_rule = [one for _, of, one in expected if of == ack_rule]
            assert [one for one in released if one in of_rule] == of_rule, "in their order"
        self.waiting = [one for one in self.waiting if one not in expected]

    @rule(seconds=st.integers(0, 4))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for key, ack_rule in self.acks.waiting():
            expired, due = self.acks.expire(key, ack_rule, self.now)
            of_rule = [one for where, of, one in self.waiting if (where, of) == (key, ack_rule)]
            over = [one for one in of_rule if one.due_seconds <= self.now]
            assert expired == over
            left = of_rule[len(over) :]
            assert due == (left[0].due_seconds if left else None)
            self.waiting = [one for one in self.waiting if one[2] not in over]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.acks.waiting_count == sum(one.count for _, _, one in self.waiting)

    def _is_confirmed(self, key: tuple[str, int], ack_rule: AckRule, one: WaitingPut) -> bool:
        positions = [of_slave[key] for of_slave in self.reported.values() if key in of_slave]
        have = sum(position.offset(ack_rule.level) >= one.end_offset for position in positions)
        return have >= ack_rule.slaves_min


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
