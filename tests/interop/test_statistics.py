"""The same traffic to the Java original and to ours: every item of ``stats`` reports the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.outcomes import CLOSED, SILENCE, Pair, outcomes
from tests.support import eventually, get, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import StartBroker
    from tests.support import BrokerProcess

pytestmark = pytest.mark.java

COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
SETTINGS: dict[str, Any] = {"numPartitions": 3, "brokerId": 7}
TOPICS = "[topic=orders]\n\n[topic=quiet]\nstat=false\n\n[topic=empty]\nacceptPublish=false\n\n[topic=dyn*]\n"
SERVED = (
    *(put("orders", b"x" * size, size, partition) for size, partition in ((1, 0), (10, 0), (100, 1))),
    put("dynamo", b"hello", 1, 2),
    put("quiet", b"hello", 1),
    get("orders", 0, 100, 1),
    get("orders", 51, 100, 1),
    get("orders", 52, 100, 1),
    get("orders", -1, 100, 1),
    get("orders", 2**63 - 1, 100, 1),
    get("orders", 0, 0, 1),
    get("dynamo", 0, 100, 1, partition=2),
    get("quiet", 0, 100, 1),
    get("quiet", 99, 100, 1),
    b"offset orders group 0 0 1\r\n",
    b"offset orders other 1 0 1\r\n",
    b"offset quiet group 0 0 1\r\n",
)
"""To partitions that are there."""
REFUSED = (
    put("orders", b"wrong partition", 1, 9),
    b"put orders 0 5 0 1 1\r\nhello",  # a wrong checksum
    put("nobody", b"wrong topic", 1),
    get("orders", 0, 100, 1, partition=2),
    get("nobody", 0, 100, 1),
    b"offset orders group 2 0 1\r\n",
    b"offset nobody group 0 0 1\r\n",
)
"""Counted by both; in the real-time statistics only the Java original counts all of them."""
OUR_LINES = {"config_origin", "instance"}
"""What MetaQ does not tell (docs/protocol.md)."""
DIFFERENT_LINES = {"pid", "port", "uptime", "version", "threads", "config_checksum"}
RESULT = re.compile(r"(Count/Duration)=[^,]*,Duration=[0-9]+")
REFUSED_REQUESTS = "real-time statistics of refused requests"
HELP_TEXT = "the words of `stats help`"
AFTER_RESET = "real-time statistics after `stats reset`"
CONFIG_TWICE = "`stats config` twice within 5 s is not answered"


def ask_both(pair: Pair, requests: tuple[bytes, ...]) -> None:
    for broker in (pair.java, pair.ours):
        with broker.connect() as wire:
            for request in requests:
                wire.ask(request)


@pytest.fixture
def pair(start_java: StartBroker, start_ours: StartBroker) -> Iterator[Pair]:
    pair = Pair(start_java(topics=TOPICS, **SETTINGS), start_ours(topics=TOPICS, **SETTINGS))
    ask_both(pair, SERVED)
    yield pair
    pair.stop()


def report(broker: BrokerProcess, item: str) -> list[str]:
    """The lines of a report, what time and process say left out of them."""
    lines: list[str] = []

    def is_asked_by_us_alone() -> bool:
        """A broker may count the connection of the question before for a moment after its end."""
        reply = broker.ask(b"stats %b 1\r\n" % item.encode())
        assert (reply.status, reply.opaque) == (200, 1)
        first, *lines[:], last, rest = reply.text.split("\r\n")
        assert (first, last, rest) == ("STATS", "END", "")
        return {line for line in lines if line.startswith("curr_connections")} <= {"curr_connections 1"}

    eventually(is_asked_by_us_alone, f"no connection but that which asks for {item!r}")
    return [
        line.split(" ")[0] if line.split(" ")[0] in DIFFERENT_LINES else RESULT.sub(r"\1,Duration", line)
        for line in lines
        if line.split(" ")[0] not in OUR_LINES
    ]


def test_every_item_has_the_same_lines(pair: Pair) -> None:
    for item in ("", "realtime", "orders", "dynamo", "quiet", "empty", "dyn*", "nobody", "77"):
        java = report(pair.java, item)
        assert len(java) > 5
        assert report(pair.ours, item) == java
    for item in ("topics", "offsets"):
        java = report(pair.java, item)
        assert len(java) > 3
        assert sorted(report(pair.ours, item)) == sorted(java)

    # Refused requests are in all counters but those of the real-time statistics.
    ask_both(pair, REFUSED)
    for item in ("", "quiet", "nobody", "offsets"):
        assert sorted(report(pair.ours, item)) == sorted(report(pair.java, item))
    java, ours = (report(broker, "realtime") for broker in (pair.java, pair.ours))
    different = [line.split(" ")[0] for line, other in zip(java, ours, strict=True) if line != other]
    counted = [
        "realtime_put",
        "realtime_get",
        "realtime_offset",
        "realtime_get_miss",
        "realtime_message_size",
    ]
    assert different == counted

    # A reset takes the names away here, and leaves zeros there.
    for broker in (pair.java, pair.ours):
        assert report(broker, "reset") == ["reset ok"]
    nothing = "Count=0,Value=0,Value/Count=invalid,Count/Duration,Duration"
    assert {line.split(" ")[1] for line in report(pair.java, "realtime")} == {nothing}
    assert {line.split(" ")[1] for line in report(pair.ours, "realtime")} == {"null"}
    assert report(pair.java, "") == report(pair.ours, "")

    # Help has the items of the original in other words, and config is the file as it is.
    java, ours = (report(broker, "help") for broker in (pair.java, pair.ours))
    names = [[line.split(" ")[0] for line in lines] for lines in (java, ours)]
    assert names[1][: len(names[0])] == names[0]
    assert java != ours
    for broker in (pair.java, pair.ours):
        assert broker.ask(b"stats config 5\r\n").body == broker.server_file.read_bytes()
    exchange = (b"stats config 5\r\n", 1)
    assert outcomes(pair.java, [exchange, exchange], patience_seconds=1)[1:] == [SILENCE]
    first, second = outcomes(pair.ours, [exchange, exchange])
    assert first == second != CLOSED


@pytest.mark.parametrize("words", [REFUSED_REQUESTS, HELP_TEXT, AFTER_RESET, CONFIG_TWICE])
def test_the_documents_name_the_difference(words: str) -> None:
    assert words in " ".join(COMPATIBILITY.read_text(encoding="utf-8").split())
