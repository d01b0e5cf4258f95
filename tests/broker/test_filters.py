"""Filtered gets: whoever counts the bytes of the replies, and follows the 301s, sees exactly what passes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.broker.filtering import GAP_BYTES, select
from metaserver.control.client import call
from metaserver.message import encode_record, iterate_records
from tests.support import get as get_of_group
from tests.support import put

if TYPE_CHECKING:
    from tests.broker.conftest import StartBroker
    from tests.support import BrokerProcess, Wire

TOPICS = """\
[topic=test]
group.paid=attribute = 'paid'
group.named=com.acme.Big
[filters]
com.acme.Big=size > 4
"""


def get(
    topic: str, offset: int, size_max: int, opaque: int, *, group: str, wait_ms: int | None = None
) -> bytes:
    line = get_of_group(topic, offset, size_max, opaque, wait_ms=wait_ms)
    return line.replace(b" group ", b" %b " % group.encode())


def put_with(wire: Wire, attribute: str, payload: bytes, opaque: int) -> None:
    body = len(attribute).to_bytes(4) + attribute.encode() + payload
    assert wire.ask(put("test", body, opaque, flag=1)).status == 200


def consume(
    wire: Wire, group: str, end: int, condition: str | None = None, size_max: int = 1000
) -> tuple[list[bytes], int]:
    """As a client does that knows nothing of filters: payloads, and how many questions it took."""
    offset, found, asked = 0, [], 0
    while offset < end:
        asked += 1
        request = get("test", offset, size_max, asked, group=group)
        if condition is not None:
            request = request.removesuffix(b"\r\n") + f" 0 where={quote(condition, safe='')}\r\n".encode()
        reply = wire.ask(request)
        if reply.status is None:
            records = list(iterate_records(reply.body))
            found += [record.payload for record in records]
            offset += records[-1].position + records[-1].size
        else:
            assert reply.status == 301, reply
            moved, *scanned = map(int, reply.text.split())
            assert moved > offset
            assert scanned == ([] if condition is None else [offset])
            offset = moved
    return found, asked


@pytest.fixture
def filled(start_broker: StartBroker) -> tuple[BrokerProcess, int]:
    """Twelve messages of different lengths, every third of them paid; and where they end."""
    node = start_broker(topics=TOPICS)
    with node.connect() as wire:
        for number in range(12):
            put_with(wire, "paid" if number % 3 == 0 else "open", b"%d" % number * (1 + number % 5), number)
        end = int(wire.ask(f"offset test g 0 {2**63 - 1} 1\r\n".encode()).text)
    return node, end


def test_old_clients_get_what_is_configured(filled: tuple[BrokerProcess, int]) -> None:
    node, end = filled
    expected = [b"%d" % number * (1 + number % 5) for number in range(12)]
    with node.connect() as wire:
        assert consume(wire, "anybody", end) == (expected, 1)
        assert consume(wire, "paid", end)[0] == expected[::3]
        assert consume(wire, "named", end)[0] == [payload for payload in expected if len(payload) > 4]
        # Both count.
        assert consume(wire, "paid", end, "size < 3")[0] == [one for one in expected[::3] if len(one) < 3]


def test_a_condition_of_the_client(filled: tuple[BrokerProcess, int]) -> None:
    node, end = filled
    with node.connect() as wire:
        # A broker need not leave out what lies between two that pass: the client does that too.
        found, asked = consume(wire, "g", end, "attribute = 'paid'")
        assert (len(found), asked) == (10, 2)
        assert consume(wire, "g", end, "attribute = 'nobody'") == ([], 1)
        assert len(consume(wire, "g", end, "")[0]) == 12
        reply = wire.ask(b"get test g 0 0 1000 7 0 where=size%20%3E\r\n")
        assert (reply.status, "a field, a 'text'" in reply.text) == (400, True)
        assert wire.ask(b"get test g 0 0 1000 8 0 where=%FF\r\n").text == "Bad request,the filter is no UTF-8"


def test_a_long_poll_ends_with_what_is_not_wanted(filled: tuple[BrokerProcess, int]) -> None:
    node, end = filled
    with node.connect() as waiting, node.connect() as wire:
        waiting.send(get("test", end, 1000, 1, group="paid", wait_ms=60_000))
        put_with(wire, "open", b"x", 2)
        assert waiting.reply().text == str(end + 20 + 4 + 4 + 1)


def test_a_message_longer_than_what_is_asked_for(filled: tuple[BrokerProcess, int]) -> None:
    node, end = filled
    with node.connect() as wire:
        put_with(wire, "open", b"x" * 500, 1)
        # No whole message to ask about: the bytes come as without a filter, and the client asks for more.
        assert wire.ask(get("test", end, 100, 2, group="paid")).status is None
        assert wire.ask(get("test", end, 1000, 3, group="paid")).status == 301


def test_a_reload_changes_what_passes(filled: tuple[BrokerProcess, int]) -> None:
    node, end = filled
    with node.connect() as wire:
        text = node.server_file.read_text()
        node.server_file.write_text(text.replace("= 'paid'", "= 'open'").replace("size > 4", "nothing"))
        changes = call(node.control_socket, "reload", 10.0)
        assert changes["topics_changed"] == ["test"]
        assert len(consume(wire, "paid", end)[0]) == 8
        assert consume(wire, "named", end)[0] == []


def test_a_class_of_java(start_broker: StartBroker) -> None:
    node = start_broker(topics="[topic=test]\n")  # Where it is not lenient, such a file is refused.
    with node.connect() as wire:
        put_with(wire, "paid", b"x", 1)
        text = node.server_file.read_text()
        node.server_file.write_text(text.replace("[topic=test]", "[topic=test]\ngroup.g=com.acme.Filter"))
        with pytest.raises(Exception, match=r"the filter com\.acme\.Filter is not known"):
            call(node.control_socket, "reload", 10.0)
        assert wire.ask(get("test", 0, 100, 2, group="g")).status is None


# Any log, any filter, any size: nothing that passes is missed, nothing comes twice.


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=30),
    st.integers(100, 400),
    st.sampled_from([0, 50, GAP_BYTES]),
)
def test_following_the_selections(messages: list[tuple[bool, int]], size_max: int, gap_bytes: int) -> None:
    log = b"".join(
        encode_record(json.dumps([number, wanted]).encode() + b" " * extra, 1 + number)
        for number, (wanted, extra) in enumerate(messages)
    )
    offset = 0
    found: list[int] = []
    while offset < len(log):
        chosen = select(
            log[offset : offset + size_max], lambda record: bool(json.loads(record.data)[1]), gap_bytes
        )
        if chosen.skipped_bytes:
            offset += chosen.skipped_bytes
            continue
        records = list(iterate_records(log[offset : offset + chosen.size_bytes]))
        assert records[-1].position + records[-1].size == chosen.size_bytes
        content = [json.loads(record.data) for record in records]
        assert gap_bytes or all(wanted for _, wanted in content)
        found += [number for number, wanted in content if wanted]
        offset += chosen.size_bytes
    assert found == [number for number, (wanted, _) in enumerate(messages) if wanted]


def test_damage_is_not_passed_over() -> None:
    good = encode_record(b"no", 1)
    damaged = bytearray(encode_record(b"yes", 2))
    damaged[-1] ^= 1
    data = good + bytes(damaged)
    assert select(data, lambda _record: False, 0).skipped_bytes == len(good)
    assert select(bytes(damaged), lambda _record: False, 0).size_bytes == len(damaged)
