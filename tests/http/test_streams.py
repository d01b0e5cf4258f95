"""Streams, the places they take, and the rates they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from metaserver.http import TopicTraffic, Traffic
from metaserver.http.history import INTERVAL_SECONDS, SAMPLES_MAX, TOPICS_MAX, History
from metaserver.http.problems import ProblemError
from metaserver.http.streams import EventStream
from metaserver.http.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from metaserver.http.streams import EventSink

TRAFFIC = Traffic(
    put_messages=0, put_bytes=0, get_requests=0, got_bytes=0, put_failures=0, connections=0, fsyncs=0
)


@attrs.define(eq=False)
class Peer:
    """The other end of an ASGI answer."""

    sent: list[MutableMapping[str, Any]] = attrs.Factory(list)
    gone: trio.Event = attrs.Factory(trio.Event)

    async def receive(self) -> MutableMapping[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def test_a_stream_is_events_and_ends_with_what_makes_them() -> None:
    async def run(sink: EventSink) -> None:
        await sink.event("message", {"text": "two\nlines"}, "1:2")
        await sink.event("other", None)

    peer = Peer()
    await EventStream(run, WaitingRoom(1))({}, peer.receive, peer.send)
    assert peer.body == (
        b'event: message\nid: 1:2\ndata: {"text": "two\\nlines"}\n\nevent: other\ndata: null\n\n'
    )
    assert peer.sent[-1]["more_body"] is False


async def test_a_stream_says_that_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    async def run(_sink: EventSink) -> None:
        await trio.sleep(25)

    peer = Peer()
    await EventStream(run, WaitingRoom(1))({}, peer.receive, peer.send)
    assert peer.body == b":\n\n:\n\n"


async def test_who_goes_away_leaves_his_place(nursery: trio.Nursery) -> None:
    async def run(_sink: EventSink) -> None:
        await trio.sleep_forever()

    room, peer = WaitingRoom(1), Peer()
    nursery.start_soon(EventStream(run, room), {}, peer.receive, peer.send)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ProblemError) as caught, room.enter():
        pass
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "5"})
    peer.gone.set()
    await trio.testing.wait_all_tasks_blocked()
    with room.enter():
        pass


def test_a_place_is_given_back_after_a_failure() -> None:
    room = WaitingRoom(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), room.enter():
            raise ZeroDivisionError


async def test_rates_are_differences_over_time(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    traffic, topics = [TRAFFIC], {"old": TopicTraffic(messages=1000)}
    history = History(lambda: traffic[0], lambda: topics, topics.__getitem__)
    nursery.start_soon(history.run)
    await trio.testing.wait_all_tasks_blocked()
    assert not history.samples
    traffic[0] = attrs.evolve(TRAFFIC, put_messages=10, got_bytes=3, connections=4)
    topics |= {"old": TopicTraffic(messages=1006), "new": TopicTraffic(bytes_out=4)}
    sample = await history.wait_next()
    assert (sample.puts_per_second, sample.got_bytes_per_second, sample.connections) == (5, 1.5, 4)
    assert sample.seconds_since_start == INTERVAL_SECONDS
    assert history.of_topics["old"][-1].messages_per_second == 3
    assert history.of_topics["new"][-1].got_bytes_per_second == 2
    assert (await history.wait_next()).puts_per_second == 0


def test_memory_is_bounded() -> None:
    topics = {f"t{number:04}": TopicTraffic() for number in range(TOPICS_MAX + 5)}
    history = History(lambda: TRAFFIC, lambda: topics, topics.__getitem__)
    for second in range(SAMPLES_MAX + 5):
        history.look(float(second))
    assert len(history.samples) == SAMPLES_MAX
    assert len(history.of_topics) == TOPICS_MAX
    assert {len(samples) for samples in history.of_topics.values()} == {SAMPLES_MAX}
    del topics["t0000"]
    history.look(1e6)
    assert "t0000" not in history.of_topics
