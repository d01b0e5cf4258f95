"""The same frames to the Java original and to ours: the replies differ only where the documents say so."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.interop.outcomes import CLOSED, Pair, outcomes, request_bytes
from tests.support import put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import StartBroker

pytestmark = pytest.mark.java

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "tests" / "testdata" / "wire"
MALFORMED = tomllib.loads((WIRE / "requests.toml").read_text(encoding="utf-8"))["malformed"]
SETTINGS: dict[str, Any] = {"maxSegmentSize": 4096, "maxTransferSize": 2048, "numPartitions": 3}
TOPICS = "[topic=t*]\n\n[topic=single]\nnumPartitions=1\n\n[topic=lazy]\nunflushThreshold=1000\n"
PATIENCE_SECONDS = 1.0
"""For a Java broker that is expected not to answer; a longer wait only takes longer to say the same."""

_topics = (f"t{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def pair(start_java: StartBroker, start_ours: StartBroker) -> Iterator[Pair]:
    java = start_java(topics=TOPICS, **SETTINGS)
    pair = Pair(java, start_ours(topics=TOPICS, maxRequestBytes=65536, maxLineBytes=512, **SETTINGS))
    yield pair
    pair.stop()


# The differences, by the words docs/compatibility.md has for them.

MALFORMED_FRAME = "a malformed frame closes the connection without a word"
TOO_LONG = "a record longer than `maxTransferSize` is taken and can never be read"
LARGE_RECORDS = "large records bypass group commit"
LATE_TO_READ = "a record becomes readable only with the next flush"
QUIT = "`quit` drops the replies that are still owed"
VERSION_TEXT = "the text of `version`"
AFTER_PREPARE = "puts into a prepared transaction"
TRANSACTIONAL_CHECKSUM = "the checksum of a put in a transaction"
NULL_KEY = "the text of a begin without a key"
SYNC_TEXT = "the text of the 503 for `sync`"
DIRECTORY_NAMES = "a topic that is no directory name"
UNKNOWN_TOPIC_AT_RANDOM = "partition -1 of an unknown topic"
SEVENTH_WORD = "a seventh word of `get`"
BATCHES = "the batched put"


# The golden conversations of the wire's own tests.

DIFFERENT_CONVERSATIONS = {
    "opaques come back unchanged, negative ones are the normal case": VERSION_TEXT,
    "put to a topic that is not configured": UNKNOWN_TOPIC_AT_RANDOM,
    "topics that are no directory names, although the pattern matches them": DIRECTORY_NAMES,
    "a put of exactly maxTransferSize, then one byte more, then the next": LARGE_RECORDS,
    "the body of a put that is too long is no command": TOO_LONG,
    "sync, on a broker that is no synchronous slave": SYNC_TEXT,
    "replies sent to a broker are dropped": VERSION_TEXT,
    "version without an opaque": VERSION_TEXT,
    "quit": VERSION_TEXT,
    "a malformed frame is answered once, behind the replies of the frames before it": MALFORMED_FRAME,
    "putbatch of two records": BATCHES,
    "putbatch without a record": BATCHES,
    "putbatch to where there is nothing": BATCHES,
}
LEFT_TO_CHANCE = {
    "quit waits for the replies that are owed": QUIT,
    "nothing behind quit is done": QUIT,
}
"""What the Java broker makes of them depends on which of its threads is faster."""


def conversations() -> list[Any]:
    found: list[tuple[str, list[str]]] = []
    for line in (WIRE / "conversations.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            found.append((line[3:], []))
        elif line[:2] in ("> ", "< "):
            found[-1][1].append(line)
    return [pytest.param(name, lines, id=name) for name, lines in found]


def exchanges_of(lines: list[str], topic: str) -> list[tuple[bytes, int]]:
    """Requests, each with the number of replies that follow it in the conversation."""
    found: list[tuple[bytes, int]] = []
    for line in lines:
        if line.startswith("> "):
            found.append((request_bytes(line[2:].replace("{topic}", topic)), 0))
        elif line != "< closed":
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


@pytest.mark.parametrize(("name", "lines"), conversations())
def test_golden_conversation(pair: Pair, name: str, lines: list[str]) -> None:
    exchanges = exchanges_of(lines, next(_topics))
    patience_seconds = PATIENCE_SECONDS if name in DIFFERENT_CONVERSATIONS else 20
    java = outcomes(pair.java, exchanges, patience_seconds=patience_seconds)
    ours = outcomes(pair.ours, exchanges)
    if name in LEFT_TO_CHANCE:
        assert java[-1] == ours[-1] == CLOSED
    elif name in DIFFERENT_CONVERSATIONS:
        assert java != ours, "the documents name a difference that is none"
    else:
        assert java == ours


def test_every_difference_is_a_conversation() -> None:
    names = {param.values[0] for param in conversations()}
    assert names >= {*DIFFERENT_CONVERSATIONS, *LEFT_TO_CHANCE}


# Conversations in which both brokers say the same, beyond the golden ones. One reply to each request.

FILL = tuple(f"put {{topic}} 0 1500 0 {opaque}\\r\\n{{1500 bytes}}" for opaque in range(1, 5))
"""Four records of 1520 bytes: the third completes the first segment."""

SAME = {
    "put with plus signs": [
        "put {topic} +0 +5 +7 907060870 +5\\r\\nhello",
        "get {topic} g +0 +0 +100 +6\\r\\n",
    ],
    "put with an empty last word": ["put {topic} 0 5 0 1 \\r\\nhello"],
    "put with a negative flag": ["put {topic} 0 5 -1 -1 1\\r\\nhello", "get {topic} g 0 0 100 2\\r\\n"],
    "put with an attribute": [
        "put {topic} 0 15 1 1\\r\\n\\x00\\x00\\x00\\x04bluepayload",
        "put {topic} 0 4 1 2\\r\\n\\x00\\x00\\x00\\x00",
        "get {topic} g 0 0 100 3\\r\\n",
    ],
    "put whose attribute is longer than its data, which nobody looks at": [
        "put {topic} 0 6 1 1\\r\\n\\x00\\x00\\x00\\xffab",
        "get {topic} g 0 0 100 2\\r\\n",
    ],
    "put with an empty body": [
        "put {topic} 2 0 0 1\\r\\n",
        "put {topic} 2 0 0 0 2\\r\\n",
        "get {topic} g 2 0 100 3\\r\\n",
    ],
    "put with a checksum of more than 31 bits": ["put {topic} 0 5 0 2147483647 1\\r\\nhello"],
    "put to a partition at random of a topic with one": [
        "put single -1 5 0 1\\r\\nhello",
        "put single -1 5 0 907060871 2\\r\\nhello",
        "put single 1 5 0 3\\r\\nhello",
    ],
    "put without a topic": ["put  0 5 0 3\\r\\nhello"],
    "get with sizes around a header": [
        "put {topic} 0 5 0 1\\r\\nhello",
        *(f"get {{topic}} g 0 0 {size} {size}\\r\\n" for size in (1, 3, 4, 19, 20, 24, 25, 26, 2147483647)),
    ],
    "get without a group, and with a strange one": [
        "put {topic} 0 5 0 1\\r\\nhello",
        "get {topic}  0 0 100 2\\r\\n",
        "get {topic} \\xe4\\xb8\\xad/*$ 0 0 100 3\\r\\n",
    ],
    "get of topics that are not ASCII, or no UTF-8": [
        "get t\\xc3\\xa9 g 0 0 10 1\\r\\n",
        "get t\\xff g 0 0 10 2\\r\\n",
        "get t\\xe4\\xb8 g 0 0 10 3\\r\\n",
        "offset t\\xff g 0 0 4\\r\\n",
    ],
    "get and offset of partitions there are none of": [
        "put {topic} 0 5 0 1\\r\\nhello",
        "get {topic} g 1 0 10 2\\r\\n",
        "get {topic} g -1 0 10 3\\r\\n",
        "get {topic} g 2147483647 0 10 4\\r\\n",
        "offset {topic} g 1 0 5\\r\\n",
        "offset {topic} g -2147483648 0 6\\r\\n",
    ],
    "words too many": [
        "put {topic} 0 5 0 1\\r\\nhello",
        "get {topic} g 0 0 100 2 0 more\\r\\n",
        "offset {topic} g 0 0 3 more words\\r\\n",
        "stats reset 4 more\\r\\n",
    ],
    "get at the end, and behind it": [
        "put {topic} 0 5 0 1\\r\\nhello",
        "get {topic} g 0 24 100 2\\r\\n",
        "get {topic} g 0 25 100 3\\r\\n",
        "get {topic} g 0 26 100 4\\r\\n",
        "get {topic} g 0 9223372036854775807 100 5\\r\\n",
    ],
    "a second segment": [
        *FILL,
        "get {topic} g 0 0 100000 10\\r\\n",
        "get {topic} g 0 3040 100000 11\\r\\n",
        "get {topic} g 0 4560 100000 12\\r\\n",
        "get {topic} g 0 6080 100000 13\\r\\n",
        *(
            f"offset {{topic}} g 0 {offset} {offset}\\r\\n"
            for offset in (-1, 0, 1, 4559, 4560, 4561, 6079, 6080, 6081)
        ),
    ],
    "a segment that is complete, and nothing behind it": [
        *FILL[:3],
        "get {topic} g 0 4560 100000 10\\r\\n",
        "get {topic} g 0 9223372036854775807 100 11\\r\\n",
        "offset {topic} g 0 4559 12\\r\\n",
        "offset {topic} g 0 4560 13\\r\\n",
        "offset {topic} g 0 4561 14\\r\\n",
    ],
    "a message as long as both take": [
        "put {topic} 0 2027 0 1\\r\\n{2027 bytes}",
        "get {topic} g 0 0 4096 2\\r\\n",
    ],
}


@pytest.mark.parametrize("requests", SAME.values(), ids=SAME.keys())
def test_same(pair: Pair, requests: list[str]) -> None:
    topic = next(_topics)
    exchanges = [(request_bytes(request.replace("{topic}", topic)), 1) for request in requests]
    java = outcomes(pair.java, exchanges)
    assert len(java) == len(requests), java
    assert outcomes(pair.ours, exchanges) == java


def test_partitions_at_random_are_used_all(pair: Pair) -> None:
    topic = next(_topics)
    request = b"".join(put(topic, b"hello", opaque, partition=-1) for opaque in range(60))
    for broker in (pair.java, pair.ours):
        replies = outcomes(broker, [(request, 60)])
        assert {reply.split(" ")[0] for reply in replies} == {"200"}
        assert {reply.split(" ")[3] for reply in replies} == {"0", "1", "2"}


def test_pipelined_requests_are_all_answered(pair: Pair) -> None:
    topic = next(_topics)
    request = b"".join(
        put(topic, b"hello", opaque) + b"get %b g 1 0 10 %d\r\n" % (topic.encode(), 1000 + opaque)
        for opaque in range(200)
    )
    java, ours = (sorted(outcomes(broker, [(request, 400)])) for broker in (pair.java, pair.ours))
    # The Java broker may append them in another order, so each offset belongs to some opaque.
    assert sorted(reply.split(" ")[-1] for reply in java) == sorted(reply.split(" ")[-1] for reply in ours)
    assert [reply.split(" ")[:3] for reply in java] == [reply.split(" ")[:3] for reply in ours]


# Conversations in which they differ, and how.


@attrs.frozen
class Difference:
    """Requests, one reply each, and what the two make of them."""

    why: str
    requests: tuple[str, ...]
    java: tuple[str, ...]
    ours: tuple[str, ...]


_FAILED = "Put message to [broker 'meta://127.0.0.1:PORT'] [partition '{topic}-0'] failed."

DIFFERENT = [
    Difference(
        VERSION_TEXT,
        ("version 1\\r\\n",),
        ("200 1 0.1",),
        (
            "200 1 1.4.6.2 metaserver/0.1.0 extensions=long-poll,put-batch,epochs,replica-ack,zlib,filter,successor",
        ),
    ),
    Difference(
        TOO_LONG,
        ("put {topic} 0 3000 0 1\\r\\n{3000 bytes}",),
        ("200 1 ID 0 0",),
        (
            f"500 1 {_FAILED}Detail:The message of 3000 bytes is too long: a record may have 2048 bytes (maxTransferSize), 20 of them header",
        ),
    ),
    Difference(
        LARGE_RECORDS,
        ("put {topic} 0 2028 0 1\\r\\n{2028 bytes}", "offset {topic} g 0 9223372036854775807 2\\r\\n"),
        ("200 1 ID 0 0", "200 2 0"),
        ("200 1 ID 0 0", "200 2 2048"),
    ),
    Difference(
        LATE_TO_READ,
        (
            "put lazy 0 5 0 1\\r\\nhello",
            "offset lazy g 0 9223372036854775807 2\\r\\n",
            "get lazy g 0 0 4 3\\r\\n",
        ),
        ("200 1 ID 0 0", "200 2 0", "404 3 Could not find message at position 0"),
        ("200 1 ID 0 0", "200 2 25", "value 3 00 00 00 05"),
    ),
    Difference(
        UNKNOWN_TOPIC_AT_RANDOM,
        ("put nobody -1 5 0 1\\r\\nhello",),
        (
            "500 1 Put message to [broker 'meta://127.0.0.1:PORT'] [partition 'nobody-RANDOM'] failed.Detail:The server do not accept topic nobody",
        ),
        (
            "500 1 Put message to [broker 'meta://127.0.0.1:PORT'] [partition 'nobody--1'] failed.Detail:The server do not accept topic nobody",
        ),
    ),
    Difference(
        DIRECTORY_NAMES,
        ("put t/../../x 0 5 0 1\\r\\nhello",),
        (
            "500 1 Put message to [broker 'meta://127.0.0.1:PORT'] [partition 't/../../x-0'] failed.Detail:Create directory failed:{data}/t/../../x-0",
        ),
        (
            "500 1 Put message to [broker 'meta://127.0.0.1:PORT'] [partition 't/../../x-0'] failed.Detail:The server do not accept topic t/../../x",
        ),
    ),
    Difference(
        SEVENTH_WORD,
        ("put {topic} 0 5 0 1\\r\\nhello", "get {topic} g 0 0 4 2 soon\\r\\n"),
        ("200 1 ID 0 0", "value 2 00 00 00 05"),
        ("200 1 ID 0 0", "400 2 Bad request,wait 'soon' is no whole number", CLOSED),
    ),
    Difference(
        AFTER_PREPARE,
        (
            "transaction XID:2:ab:cd:q null BEGIN 1\\r\\n",
            "put {topic} 0 5 0 XID:2:ab:cd:q 2\\r\\nhello",
            "transaction XID:2:ab:cd:q null PREPARE 3\\r\\n",
            "put {topic} 0 5 0 XID:2:ab:cd:q 4\\r\\nhello",
            "transaction XID:2:ab:cd:q null ROLLBACK 5\\r\\n",
        ),
        ("200 1 ", "200 2 ID 0 -1", "200 3 0", "200 4 ID 0 -1", "200 5 "),
        ("200 1 ", "200 2 ID 0 -1", "200 3 0", "500 4 Cannot call put now.", "200 5 "),
    ),
    Difference(
        TRANSACTIONAL_CHECKSUM,
        (
            "transaction TX:s-1-1:2 s-1-1 BEGIN 1\\r\\n",
            "put {topic} 0 5 0 1 TX:s-1-1:2 2\\r\\nhello",
        ),
        ("200 1 ", "200 2 ID 0 -1"),
        (
            "200 1 ",
            "500 2 Checksum failure,message may be corrupted when transfering on networking.",
        ),
    ),
    Difference(
        NULL_KEY,
        ("transaction null null BEGIN 1\\r\\n",),
        (
            "500 1 class com.taobao.metamorphosis.transaction.NullTransactionId cannot be cast to class com.taobao.metamorphosis.transaction.LocalTransactionId (com.taobao.metamorphosis.transaction.NullTransactionId and com.taobao.metamorphosis.transaction.LocalTransactionId are in unnamed module of loader 'app')",
        ),
        ("500 1 A transaction needs a key: TX:SESSION:NUMBER, or XID with four parts",),
    ),
    Difference(
        SYNC_TEXT,
        ("sync {topic} 0 5 0 1 907060870 1\\r\\nhello",),
        (
            "503 1 \u672a\u6ce8\u518c\u8bf7\u6c42\u5904\u7406\u5668\uff0c\u8bf7\u6c42\u5904\u7406\u5668\u7c7b\u4e3acom.taobao.metamorphosis.network.SyncCommand",
        ),
        ("503 1 This broker is no synchronous slave and takes no sync requests.",),
    ),
]


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: case.requests[-1][:40])
def test_different(pair: Pair, case: Difference) -> None:
    topic = next(_topics)
    exchanges = [(request_bytes(request.replace("{topic}", topic)), 1) for request in case.requests]
    for broker, expected in ((pair.java, case.java), (pair.ours, case.ours)):
        found = [re.sub(r"'nobody-[0-2]'", "'nobody-RANDOM'", text) for text in outcomes(broker, exchanges)]
        filled_in = [text.replace("{topic}", topic).replace("{data}", str(broker.data)) for text in expected]
        assert found == filled_in


# Frames that are none.

GOOD_TO_JAVA = {
    "the long poll's word is no number": SEVENTH_WORD,
    "digits of another script are none": "digits of other scripts",
    "2 GiB": "no limit on a request",
}
"""The Java broker answers the first two, and waits for the body of the third."""


@pytest.mark.parametrize("case", MALFORMED, ids=[case["name"] for case in MALFORMED])
def test_malformed(pair: Pair, case: dict[str, Any]) -> None:
    before = (b"offset none g 0 0 1\r\n", 1)
    frame = case["bytes"].encode("latin-1")
    ours = outcomes(pair.ours, [before, (frame, 1)])
    assert ours[0].startswith("404 1 ")
    assert ours[1].startswith("400 ")
    assert ours[2:] == [CLOSED]
    is_good = case["name"] in GOOD_TO_JAVA
    # The Java broker looks at a frame when its body is there; what follows is no frame either.
    rest = b"" if is_good else b"x" * 100 + b"\r\n"
    patience_seconds = PATIENCE_SECONDS if is_good else 20
    java = outcomes(pair.java, [before, (frame + rest, 1)], patience_seconds=patience_seconds)
    assert java[0] == ours[0]
    assert (java[1:] == [CLOSED]) != is_good, java


# The documents.


@pytest.mark.parametrize(
    "words",
    sorted(
        {
            *DIFFERENT_CONVERSATIONS.values(),
            *LEFT_TO_CHANCE.values(),
            *(case.why for case in DIFFERENT),
            *GOOD_TO_JAVA.values(),
        }
    ),
)
def test_the_documents_name_the_difference(words: str) -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert words in " ".join(text.split())
