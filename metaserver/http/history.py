"""The last minutes of a broker in figures, for charts."""

from __future__ import annotations

from collections import deque
from heapq import nsmallest
from typing import TYPE_CHECKING, Final

import attrs
import trio

from metaserver.config.users import Role
from metaserver.http.asking import Query, json_response
from metaserver.http.streams import EventStream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.requests import Request
    from starlette.responses import Response

    from metaserver.http.access import Access
    from metaserver.http.source import TopicTraffic, Traffic
    from metaserver.http.streams import EventSink
    from metaserver.http.waiting import WaitingRoom

INTERVAL_SECONDS: Final = 2.0
SAMPLES_MAX: Final = 300
"""Ten minutes."""
TOPICS_MAX: Final = 200
"""Whose rates are remembered; the first by name, where there are more."""


@attrs.frozen
class Sample:
    """Rates over one interval, and gauges at its end."""

    seconds_since_start: float
    puts_per_second: float
    put_bytes_per_second: float
    gets_per_second: float
    got_bytes_per_second: float
    fsyncs_per_second: float
    failures_per_second: float
    connections: int


@attrs.frozen
class TopicSample:
    """The same of one topic."""

    messages_per_second: float
    put_bytes_per_second: float
    gets_per_second: float
    got_bytes_per_second: float


@attrs.define(eq=False)
class History:
    """Looks at the counters now and then."""

    _traffic: Callable[[], Traffic]
    _topics: Callable[[], Collection[str]]
    _topic_traffic: Callable[[str], TopicTraffic]
    samples: deque[Sample] = attrs.Factory(lambda: deque(maxlen=SAMPLES_MAX))
    of_topics: dict[str, deque[TopicSample]] = attrs.Factory(dict)
    _before: tuple[float, Traffic] | None = None
    _topics_before: dict[str, TopicTraffic] = attrs.Factory(dict)
    _began: float = 0.0
    _next: trio.Event = attrs.Factory(trio.Event)

    async def run(self) -> None:
        """Until cancelled."""
        self._began = trio.current_time()
        while True:
            self.look(trio.current_time())
            await trio.sleep(INTERVAL_SECONDS)

    def look(self, now: float) -> None:
        """Take a sample of what has happened since the look before."""
        traffic = self._traffic()
        if self._before is None:
            self._topics_before = self._traffic_of_topics()
        if self._before is not None and now > self._before[0]:
            self._look_at_topics(now - self._before[0])
            self.samples.append(_sample(self._before, now, traffic, now - self._began))
            event, self._next = self._next, trio.Event()
            event.set()
        self._before = now, traffic

    def _look_at_topics(self, passed: float) -> None:
        traffic = self._traffic_of_topics()
        for topic in self.of_topics.keys() - traffic.keys():
            del self.of_topics[topic]
        for topic, now in traffic.items():
            sample = _topic_sample(self._topics_before.get(topic), now, passed)
            self.of_topics.setdefault(topic, deque(maxlen=SAMPLES_MAX)).append(sample)
        self._topics_before = traffic

    def _traffic_of_topics(self) -> dict[str, TopicTraffic]:
        return {topic: self._topic_traffic(topic) for topic in nsmallest(TOPICS_MAX, self._topics())}

    async def wait_next(self) -> Sample:
        """The next sample."""
        await self._next.wait()
        return self.samples[-1]


def _sample(before: tuple[float, Traffic], now: float, traffic: Traffic, since_start: float) -> Sample:
    then, old = before
    passed = now - then

    def rate(field: str) -> float:
        count: int = getattr(traffic, field) - getattr(old, field)
        return round(count / passed, 2)

    return Sample(
        seconds_since_start=round(since_start, 1),
        puts_per_second=rate("put_messages"),
        put_bytes_per_second=rate("put_bytes"),
        gets_per_second=rate("get_requests"),
        got_bytes_per_second=rate("got_bytes"),
        fsyncs_per_second=rate("fsyncs"),
        failures_per_second=rate("put_failures"),
        connections=traffic.connections,
    )


def _topic_sample(before: TopicTraffic | None, now: TopicTraffic, passed: float) -> TopicSample:
    # A topic that was not there before had nothing then.
    counts = attrs.astuple(now)
    old = (0,) * len(counts) if before is None else attrs.astuple(before)
    return TopicSample(*(round((one - other) / passed, 2) for one, other in zip(counts, old, strict=True)))


@attrs.frozen
class RatesApi:
    """``/api/v1/rates``."""

    _history: History
    _access: Access
    _waiting: WaitingRoom

    async def rates(self, request: Request) -> Response:
        """The last ten minutes, of the broker or of one topic."""
        self._access.admit(request, Role.READ)
        topic = Query.of(request, "topic").optional("topic")
        found = self._history.samples if topic is None else self._history.of_topics.get(topic, ())
        samples = [attrs.asdict(sample) for sample in found]
        return await json_response({"interval_seconds": INTERVAL_SECONDS, "samples": samples}, is_long=True)

    async def events(self, request: Request) -> EventStream:
        """Each sample as it is taken."""
        self._access.admit(request, Role.READ)
        Query.of(request)
        return EventStream(self._run, self._waiting)

    async def _run(self, sink: EventSink) -> None:
        while True:
            await sink.event("sample", attrs.asdict(await self._history.wait_next()))
