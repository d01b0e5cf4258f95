"""What comes over connections of MetaQ's protocol: commands, replies, and texts inside of them."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING

from metaserver.client.comparison import parse_ranges
from metaserver.client.message_fields import message_fields
from metaserver.client.partition import Partition
from metaserver.client.received import decode_messages
from metaserver.epochs import EpochChain
from metaserver.errors import ProtocolError
from metaserver.filters import Filter
from metaserver.message import encode_record, iterate_records, scan
from metaserver.protocol import CommandDecoder, Limits, Malformed, ReplyDecoder, parse_xa_failure
from metaserver.replication.chain import parse_chain
from metaserver.replication.pulling import expand
from tests.fuzzing.target import EDGES, Target, refusing
from tests.protocol.frames import bytewise, decode
from tests.support import get, put, put_batch, record

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMITS = Limits(line_bytes_max=512, body_bytes_max=4096, record_bytes_max=2048)
_EXPANDED_BYTES_MAX = 64 * 1024


def _commands(data: bytes) -> None:
    whole = decode([data], _LIMITS)
    assert whole == decode(bytewise(data), _LIMITS), "the pieces in which bytes come change their meaning"
    decoder = CommandDecoder(_LIMITS)
    found = decoder.feed(data)
    for command in found[:-1]:
        assert not isinstance(command, Malformed), "something is read behind what is malformed"


def _replies(data: bytes) -> None:
    try:
        whole = ReplyDecoder(4096).feed(data)
    except ProtocolError:
        return
    decoder = ReplyDecoder(4096)
    assert [reply for piece in bytewise(data) for reply in decoder.feed(piece)] == whole


def _compressed(data: bytes) -> None:
    assert 0 < len(expand(data, _EXPANDED_BYTES_MAX)) <= _EXPANDED_BYTES_MAX


def _records(data: bytes) -> None:
    found = list(iterate_records(data))
    assert (
        b"".join(encode_record(each.data, each.message_id, each.flag) for each in found)
        == data[: sum(each.size for each in found)]
    )
    counted = scan(data)
    assert counted.count == len(found)
    messages, end = decode_messages(Partition("t", 0, 0), 0, data)
    assert len(messages) == len(found)
    assert end == counted.end
    for message in messages:
        json.dumps(message_fields(message, "0-0"))


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="replace"))


def _filter(data: bytes) -> None:
    condition, _, payload = data.partition(b"\n")
    parsed = Filter.parse(condition.decode(errors="replace"))
    parsed.accepts("attribute", payload)
    parsed.accepts(None, payload)


def _chain(data: bytes) -> None:
    chain = EpochChain.parse(data.decode(errors="replace"))
    assert EpochChain.parse(str(chain)) == chain


_BOMB = zlib.compress(bytes(1024 * 1024))

TARGETS = (
    Target(
        "commands",
        _commands,
        [
            put("test", b"hello", 1),
            put("test", b"a", 1) + put("test", b"b", 2) + b"version 3\r\n",
            put_batch("test", record(b"one", 1) + record(b"two", 2), 4),
            get("test", 0, 1000, 5) + get("test", 0, 1000, 6, wait_ms=100),
            b"get test group 0 0 1000 1 100 filter=payload%20LIKE%20'a%25'\r\n",
            b"offset test group 0 1024 7\r\nepochs test 0 1024 8\r\nquit\r\n",
            b"replicated slave 1 20 9\r\ntest 0 100 1\r\nt 1 2 0",
            b"transaction TX:s:1 s begin 1\r\ntransaction XID:1:ab::q null prepare 2\r\n",
            b"put test 0 1 0 1 TX:s:1 3\r\nxsync test 0 5 0 123 456 7\r\nhello",
            b"stats offsets 1\r\npair 127.0.0.1:8123 2\r\n",
        ],
        [b"\r\n", b" ", b"\r", b"\n", b"\0", b"put ", b"get ", b"putbatch ", b"sync ", *EDGES],
    ),
    Target(
        "replies",
        _replies,
        [b"result 200 2 7\r\nok", b"value 5 1\r\nhello", b"result 404 0 -1\r\nvalue 0 2147483647\r\n"],
        [b"\r\n", b"result ", b"value ", *EDGES],
    ),
    Target(
        "compressed",
        refusing(_compressed),
        [zlib.compress(record(b"x" * 100)), zlib.compress(b""), _BOMB, zlib.compress(b"a") + b"behind"],
    ),
    Target(
        "records",
        _records,
        [
            record(b"hello", 1) + record(b"", 2) + record(b"x" * 50, 3),
            record(b"\0\0\0\4attrpayload", 4, 1) + record(b"\xff\xff\xff\xffx", 5, 1) + record(b"\0", 6, 1),
            bytes(64),
        ],
        [bytes(20), b"\xff" * 4, b"\x7f\xff\xff\xff"],
    ),
    Target(
        "filters",
        refusing(_filter),
        [
            b"attribute = 'x' AND NOT payload LIKE '%a_b' ESCAPE '!'\npayload",
            b"json.a.b > 1.5 OR json.x IN ('1', 2, TRUE)\n" + b'{"a": {"b": 2}, "x": "1"}',
            b"(attribute IS NOT NULL) AND json.a BETWEEN 1 AND 2\n[]",
            b"accept-all\nx",
        ],
        [b"(", b")", b"NOT ", b" AND ", b" OR ", b"'", b"json.", b"[", b'{"a":', b"NaN", b"1e999", *EDGES],
    ),
    Target("epochs-reply", refusing(_chain, ValueError), [b"1 a1b2 0\n2 ff 1024\n"], [b" ", b"\n", *EDGES]),
    Target(
        "offsets-reply",
        refusing(_text(parse_ranges)),
        [
            b"STATS\r\ntest part 0 min_offset 0 max_offset 100\r\nt part 1 min_offset 5 max_offset 9\r\nEND\r\n"
        ],
        [b" ", b"\r\n", b" part ", *EDGES],
    ),
    Target(
        "upstream",
        refusing(_text(parse_chain)),
        [b"127.0.0.1:8123,a1,slave,up,12 [::1]:1,-,master,down,0"],
        [b",", b" ", *EDGES],
    ),
    Target(
        "xa-failure", _text(parse_xa_failure), [b"XAException:code=-4,msg=unknown"], [b"code=", b",", *EDGES]
    ),
)
