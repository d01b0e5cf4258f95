"""A lane against a plain model: order, bytes, one request at a time."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from metaserver.client.lane import Lane, LaneState, Outgoing
from metaserver.client.partition import Partition

BYTES_MAX, MESSAGES_MAX, LINGER_SECONDS = 200, 4, 1.0
PARTITION = Partition("t", 0, 0)


def message(number: int, size: int = 10, deadline: float = 1e9, *, is_bound: bool = False) -> Outgoing:
    data = bytes(size)
    target = PARTITION if is_bound else None
    return Outgoing("t", data, 0, b"%d" % number, None, None, target, deadline, lambda _outcome: None)


class LaneMachine(RuleBasedStateMachine):
    """Messages carry numbers that grow; whatever happens, they leave in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(PARTITION, BYTES_MAX, MESSAGES_MAX, LINGER_SECONDS)
        self.now = 0.0
        self.count = 0
        self.waiting: list[Outgoing] = []
        self.in_flight: list[Outgoing] = []
        self.not_before = 0.0

    @rule(size=st.integers(0, 250), patience=st.integers(0, 5), is_bound=st.booleans())
    def add(self, size: int, patience: int, *, is_bound: bool) -> None:
        self.count += 1
        one = message(self.count, size, self.now + patience, is_bound=is_bound)
        if self.lane.state is LaneState.IDLE:
            self.not_before = self.now + LINGER_SECONDS
        self.lane.add(one, self.now)
        self.waiting.append(one)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(can_batch=st.booleans())
    def take(self, *, can_batch: bool) -> None:
        was = self.lane.state
        taken = self.lane.take(self.now, can_batch=can_batch)
        if self.in_flight or not self.waiting:
            assert taken == []
            return
        if was in (LaneState.LINGERING, LaneState.PAUSED) and self.now < self.lane.due:
            is_full = (
                sum(m.size_bytes for m in self.waiting) >= BYTES_MAX or len(self.waiting) >= MESSAGES_MAX
            )
            assert bool(taken) == (was is LaneState.LINGERING and is_full)
        else:
            assert taken
        assert taken == self.waiting[: len(taken)]
        if not can_batch or any(m.is_suspect for m in taken):
            assert len(taken) <= 1
        assert len(taken) <= MESSAGES_MAX
        assert len(taken) <= 1 or sum(m.size_bytes for m in taken) <= BYTES_MAX
        self.waiting, self.in_flight = self.waiting[len(taken) :], taken

    @precondition(lambda self: self.in_flight)
    @rule()
    def succeed(self) -> None:
        assert self.lane.answered() == self.in_flight
        self.in_flight = []

    @precondition(lambda self: self.in_flight)
    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]), is_suspect=st.booleans())
    def fail(self, seconds: float, *, is_suspect: bool) -> None:
        again = self.lane.answered()
        assert again == self.in_flight
        if is_suspect and len(again) > 1:
            for one in again:
                one.is_suspect = True
        self.lane.give_back(again)
        self.lane.pause(self.now + seconds)
        self.waiting, self.in_flight = again + self.waiting, []

    @rule()
    def pause_while_in_flight(self) -> None:
        if self.in_flight:
            self.lane.pause(self.now + 100.0)
            assert self.lane.state is LaneState.IN_FLIGHT

    @rule()
    def expire(self) -> None:
        gone = [m for m in self.waiting if m.deadline <= self.now]
        assert self.lane.expired(self.now) == gone
        self.waiting = [m for m in self.waiting if m.deadline > self.now]

    @rule(only_free=st.booleans())
    def drain(self, *, only_free: bool) -> None:
        gone = [m for m in self.waiting if not only_free or not m.is_bound]
        assert self.lane.drain(only_free=only_free) == gone
        self.waiting = [m for m in self.waiting if m not in gone]

    @invariant()
    def it_is_as_the_model(self) -> None:
        assert list(self.lane.waiting) == self.waiting
        assert self.lane.in_flight == self.in_flight
        assert self.lane.waiting_bytes == sum(m.size_bytes for m in self.waiting)
        assert (self.lane.state is LaneState.IN_FLIGHT) == bool(self.in_flight)
        numbers = [int(m.payload) for m in self.in_flight + self.waiting]
        assert numbers == sorted(numbers)


TestLane = LaneMachine.TestCase


def test_a_message_larger_than_a_batch_goes_alone() -> None:
    lane = Lane(PARTITION, BYTES_MAX, MESSAGES_MAX, 0.0)
    for number, size in enumerate([10, 500, 10]):
        lane.add(message(number, size), 0.0)
    sizes = []
    while taken := lane.take(0.0, can_batch=True):
        sizes.append([len(one.data) for one in taken])
        lane.answered()
    assert sizes == [[10], [500], [10]]


def test_attempts_are_counted() -> None:
    lane = Lane(PARTITION, BYTES_MAX, MESSAGES_MAX, 0.0)
    one = message(0)
    lane.add(one, 0.0)
    for attempt in (1, 2, 3):
        assert lane.take(0.0, can_batch=True)[0].attempts == attempt
        lane.give_back(lane.answered())


def test_who_must_stay() -> None:
    free = message(0)
    unknown = message(0)
    unknown.may_be_stored = True
    assert (free.is_bound, unknown.is_bound) == (False, True)
    assert message(0, is_bound=True).is_bound
