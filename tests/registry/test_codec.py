"""Bytes of the protocol: what requests are read as, what replies look like, and that no bytes do harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kazoo import security
from kazoo.protocol import serialization

from metaserver.registry.embedded.codes import Code, Event, MalformedError, RequestRefusedError
from metaserver.registry.embedded.framing import Framer
from metaserver.registry.embedded.node import Acl, Node
from metaserver.registry.embedded.replies import (
    encode_connected,
    encode_error_result,
    encode_event,
    encode_reply,
    encode_result,
    encode_results,
)
from metaserver.registry.embedded.requests import (
    Check,
    ConnectRequest,
    Create,
    Delete,
    Multi,
    Request,
    SetData,
    SetWatches,
    decode_body,
    decode_connect,
    decode_header,
)

WORLD = (Acl(31, "world", "anyone"),)


def decode(frame: bytes) -> tuple[int, Request]:
    xid, operation, reader = decode_header(frame)
    return xid, decode_body(operation, reader)


# From captures of a session of ZooKeeper's own command line client (3.8) with its server.

CONNECT = bytes.fromhex("00000000 0000000000000000 00007530 0000000000000000 00000010") + bytes(16) + b"\0"
CREATE = bytes.fromhex(
    "00000001 00000001 00000002 2f61 00000003 616263"
    "00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65 00000003"
)
MULTI = bytes.fromhex(
    "00000007 0000000e"
    "0000000d 00 ffffffff 00000002 2f61 00000003"
    "00000005 00 ffffffff 00000002 2f61 ffffffff 00000003"
    "00000002 00 ffffffff 00000002 2f62 ffffffff"
    "ffffffff 01 ffffffff"
)
SET_WATCHES = bytes.fromhex(
    "fffffff8 00000065 0000000000000102 00000001 00000002 2f61 00000000 00000001 00000002 2f62"
)


def test_golden_requests() -> None:
    assert decode_connect(CONNECT) == ConnectRequest(0, 30_000, 0, bytes(16), knows_read_only=True)
    assert not decode_connect(CONNECT[:-1]).knows_read_only
    create = Create("/a", b"abc", WORLD, is_ephemeral=True, is_sequential=True, wants_stat=False)
    assert decode(CREATE) == (1, create)
    assert decode(MULTI) == (7, Multi((Check("/a", 3), SetData("/a", None, 3), Delete("/b", -1))))
    assert decode(SET_WATCHES) == (-8, SetWatches(0x102, ("/a",), (), ("/b",)))


def test_golden_replies() -> None:
    assert encode_reply(5, 0x102, Code.NO_NODE).hex(" ", 4) == "00000010 00000005 00000000 00000102 ffffff9b"
    assert encode_event(Event.NODE_DATA_CHANGED, "/a") == bytes.fromhex(
        "0000001e ffffffff ffffffffffffffff 00000000 00000003 00000003 00000002 2f61"
    )
    assert encode_connected(4000, 0x0102, b"\7" * 16, knows_read_only=True) == bytes.fromhex(
        "00000025 00000000 00000fa0 0000000000000102 00000010" + "07" * 16 + "00"
    )
    assert len(encode_connected(4000, 1, bytes(16), knows_read_only=False)) == 40
    results = [encode_result(13, b""), encode_error_result(Code.BAD_VERSION)]
    assert encode_results(results) == bytes.fromhex(
        "0000000d 00 00000000 ffffffff 00 ffffff99 ffffff99 ffffffff 01 ffffffff"
    )


def test_golden_stat() -> None:
    node = Node(b"abc", WORLD, 1, 2, 3, 4, 5, version=6, acl_version=7, children_created=8, owner=9)
    node.children = {"x": None, "y": None}
    found = serialization.ZnodeStat._make(serialization.stat_struct.unpack(node.encode_stat()))
    assert found == (1, 2, 4, 5, 6, 14, 7, 9, 3, 2, 3)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@given(
    path=names,
    data=st.none() | st.binary(max_size=9),
    acl=st.lists(st.tuples(st.integers(0, 31), names, names)),
    flags=st.integers(0, 3),
)
def test_creates_as_kazoo_sends_them(
    path: str, data: bytes | None, acl: list[tuple[int, str, str]], flags: int
) -> None:
    sent = serialization.Create(
        path, data, [security.ACL(perms, security.Id(scheme, name)) for perms, scheme, name in acl], flags
    )
    _, request = decode(b"\0\0\0\1\0\0\0\1" + sent.serialize())
    expected = tuple(Acl(*entry) for entry in acl)
    assert request == Create(path, data, expected, bool(flags & 1), bool(flags & 2), wants_stat=False)


@pytest.mark.parametrize("flags", [4, 5, 6])
def test_containers_and_nodes_with_a_time_to_live_are_not_offered(flags: int) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        decode(CREATE[:-4] + flags.to_bytes(4, "big"))
    assert refused.value.code == Code.UNIMPLEMENTED


@pytest.mark.parametrize("frame", [CREATE, MULTI, SET_WATCHES], ids=["create", "multi", "set watches"])
def test_requests_cut_short_are_malformed(frame: bytes) -> None:
    for size in range(len(frame)):
        with pytest.raises(MalformedError):
            decode(frame[:size])


@given(operation=st.integers(-11, 110), body=st.binary(max_size=80))
def test_any_bytes_are_a_request_or_refused(operation: int, body: bytes) -> None:
    frame = b"\0\0\0\1" + operation.to_bytes(4, "big", signed=True) + body
    try:
        decode(frame)
        decode_connect(frame)
    except (MalformedError, RequestRefusedError):
        return


@given(
    frames=st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    cuts=st.lists(st.integers(1, 9), min_size=1),
)
def test_frames_arrive_in_any_pieces(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    framer, found, position = Framer(), [], 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        found += framer.feed(stream[position : position + size])
        position += size
    assert found == frames
    assert not framer.has_partial_frame


@pytest.mark.parametrize("length", [-1, 0, 101, 2**31 - 1])
def test_lengths_that_cannot_be(length: int) -> None:
    with pytest.raises(MalformedError):
        Framer(100).feed(length.to_bytes(4, "big", signed=True))
