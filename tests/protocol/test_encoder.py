"""Commands and replies to bytes, against the tables of the reference and read back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metaserver.protocol import (
    CommandDecoder,
    Get,
    Limits,
    LocalKey,
    OffsetQuery,
    PutBatch,
    Puts,
    ReplicaPosition,
    ReplyDecoder,
    Result,
    Stats,
    TransactionAction,
    Value,
    Version,
    XaKey,
    encode_get,
    encode_offset_query,
    encode_pair,
    encode_put,
    encode_put_batch,
    encode_put_results,
    encode_replicated,
    encode_result,
    encode_stats,
    encode_successor,
    encode_sync,
    encode_transaction,
    encode_transactional_put,
    encode_value_header,
    encode_version,
)

TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "wire"
REPLIES = tomllib.loads((TESTDATA / "replies.toml").read_text(encoding="utf-8"))["frame"]

int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@pytest.mark.parametrize("case", REPLIES, ids=[case["name"] for case in REPLIES])
def test_golden_reply(case: dict[str, Any]) -> None:
    expected = case["bytes"].encode("latin-1")
    if "result" in case:
        assert encode_result(**case["result"]) == expected
        assert encode_result(
            case["result"]["status"], case["result"]["text"].encode(), b"%d" % case["result"]["opaque"]
        ) == (expected)
    else:
        data = case["value"]["data"].encode("latin-1")
        assert encode_value_header(len(data), case["value"]["opaque"]) + data == expected


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (encode_put("test", 3, b"hello", 1, -2147483648), b"put test 3 5 1 907060870 -2147483648\r\nhello"),
        (encode_put("test", -1, b"", 0, 7), b"put test -1 0 0 0 7\r\n"),
        (encode_put_batch("test", 0, b"\0" * 20, -7), b"putbatch test 0 20 -7\r\n" + b"\0" * 20),
        (encode_get("test", "g", 2, 1024, 1048576, -7), b"get test g 2 1024 1048576 -7\r\n"),
        (encode_get("test", "g", 2, 1024, 1048576, -7, 500), b"get test g 2 1024 1048576 -7 500\r\n"),
        (encode_get("test", "g", 2, 1024, 1048576, -7, 0), b"get test g 2 1024 1048576 -7\r\n"),
        (
            encode_offset_query("test", "g", 2, 9223372036854775807, 7),
            b"offset test g 2 9223372036854775807 7\r\n",
        ),
        (encode_replicated("g", 2, [], 7), b"replicated g 2 0 7\r\n"),
        (
            encode_replicated("g", 2, [ReplicaPosition("t", 1, 45, 25), ReplicaPosition("u", 0, 0, 0)], -7),
            b"replicated g 2 20 -7\r\nt 1 45 25\r\nu 0 0 0\r\n",
        ),
        (
            encode_sync("test", 3, b"hello", 1, -9223372036854775808, 907060870, 7),
            b"sync test 3 5 1 -9223372036854775808 907060870 7\r\nhello",
        ),
        (encode_pair("127.0.0.1:8123", 7), b"pair 127.0.0.1:8123 7\r\n"),
        (encode_successor("[::1]:8123", 7), b"successor [::1]:8123 7\r\n"),
        (encode_stats("", -1), b"stats  -1\r\n"),
        (encode_stats("topics", 7), b"stats topics 7\r\n"),
        (
            encode_transactional_put("test", 3, b"hello", 1, LocalKey("s-1-1", 2), -7),
            b"put test 3 5 1 907060870 TX:s-1-1:2 -7\r\nhello",
        ),
        (
            encode_transaction(TransactionAction.BEGIN, LocalKey("s-1-1", 2), -7, timeout_seconds=30),
            b"transaction TX:s-1-1:2 s-1-1 BEGIN 30 -7\r\n",
        ),
        (
            encode_transaction(
                TransactionAction.BEGIN, XaKey(1, "ab", "", "q"), 7, timeout_seconds=30, qualifier="q"
            ),
            b"transaction XID:1:ab::q null BEGIN 30 q 7\r\n",
        ),
        (
            encode_transaction(TransactionAction.RECOVER, None, 7, qualifier="q"),
            b"transaction null null RECOVER q 7\r\n",
        ),
        (encode_version(-2147483648), b"version -2147483648\r\n"),
    ],
)
def test_golden_request(encoded: bytes, expected: bytes) -> None:
    assert encoded == expected


@given(names, int32, st.binary(max_size=50), int32, int32)
def test_a_put_is_read_back(topic: str, partition: int, data: bytes, flag: int, opaque: int) -> None:
    (run,) = CommandDecoder(Limits()).feed(encode_put(topic, partition, data, flag, opaque))
    assert isinstance(run, Puts)
    assert (run.topic, run.partition, run.bodies, run.flags) == (topic, partition, [data], [flag])
    assert run.opaques == [b"%d" % opaque]


@given(names, names, int32, int64, int32, int32, st.integers(0, 2**31 - 1))
def test_other_requests_are_read_back(
    topic: str, group: str, partition: int, offset: int, size: int, opaque: int, wait_ms: int
) -> None:
    data = (
        encode_get(topic, group, partition, offset, size, opaque, wait_ms)
        + encode_offset_query(topic, group, partition, offset, opaque)
        + encode_stats(topic, opaque)
        + encode_version(opaque)
        + encode_put_batch(topic, partition, b"\0" * 20, opaque)
    )
    assert CommandDecoder(Limits()).feed(data) == [
        Get(topic, group, partition, offset, size, opaque, wait_ms),
        OffsetQuery(topic, group, partition, offset, opaque),
        Stats(topic, opaque),
        Version(opaque),
        PutBatch(topic, partition, b"\0" * 20, opaque),
    ]


@given(st.integers(100, 599), st.text(max_size=30), int32, st.binary(max_size=30))
def test_replies_are_read_back(status: int, text: str, opaque: int, data: bytes) -> None:
    stream = encode_result(status, text, opaque) + encode_value_header(len(data), opaque) + data
    assert ReplyDecoder().feed(stream) == [Result(status, text, opaque), Value(data, opaque)]


@given(
    st.lists(st.tuples(int32, st.integers(20, 2000)), min_size=1, max_size=30),
    st.integers(-(2**63), 2**63 - 5000),
    st.integers(0, 1000),
    st.integers(0, 2**62),
)
@example([(1, 20)] * 3, -2, 0, 0)
@example([(1, 20)] * 3, 98, 0, 0)
@example([(1, 40)] * 3, 1, 0, 20)
@example([(1, 450)] * 3, 1, 10, 99)
def test_the_replies_of_a_run_are_those_of_its_puts(
    messages: list[tuple[int, int]], first_id: int, partition: int, offset: int
) -> None:
    opaques, sizes = [b"%d" % opaque for opaque, _ in messages], [size for _, size in messages]
    joined = encode_put_results(opaques, range(first_id, first_id + len(messages)), partition, offset, sizes)
    expected = b""
    for index, opaque in enumerate(opaques):
        text = f"{first_id + index} {partition} {offset + sum(sizes[:index])}"
        expected += encode_result(200, text, opaque)
    assert joined == expected
