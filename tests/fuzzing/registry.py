"""The embedded registry: its port, its log, and what the nodes of the shared layout hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.registry.embedded.framing import Framer
from metaserver.registry.embedded.records import Loader, encode_snapshot, load
from metaserver.registry.embedded.registry import Append, Compact, Registry, RegistryOptions
from metaserver.registry.embedded.tree import Tree
from metaserver.registry.paths import (
    BrokerPartition,
    Replica,
    StoredOffset,
    TopicNode,
    parse_number,
    parse_uri,
    split_connect,
)
from tests.fuzzing.target import EDGES, Target, joined, pieces, refusing
from tests.registry import wire
from tests.storage.faulty_filesystem import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT_MS = 4000
_FRAMES_MAX = 64
_PASSWORD = b"p" * 16


def _connect_frame(session_id: int = 0) -> bytes:
    head = bytes(12) + _TIMEOUT_MS.to_bytes(4, "big") + session_id.to_bytes(8, "big")
    return head + len(_PASSWORD).to_bytes(4, "big") + _PASSWORD


def _request(number: int, request: object) -> bytes:
    kind: int = request.type  # type: ignore[attr-defined] # kazoo's classes share no type
    data: bytes = request.serialize()  # type: ignore[attr-defined] # the same
    return number.to_bytes(4, "big") + kind.to_bytes(4, "big", signed=True) + data


def _framed(frames: Sequence[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


REQUESTS = (
    wire.Create("/a", b"data", wire.ACL, 0),
    wire.Create("/a/b-", b"", wire.ACL, 3),
    wire.Create2("/e", b"x", wire.ACL, 1),
    wire.Exists("/a", True),
    wire.GetData("/a", True),
    wire.SetData("/a", b"new", -1),
    wire.GetChildren2("/", True),
    wire.GetACL("/a"),
    wire.SetACL("/a", wire.ACL, -1),
    wire.Transaction([wire.Create("/m", b"", wire.ACL, 0), wire.Check("/a", 0), wire.Delete("/m", -1)]),
    wire.Sync("/"),
    wire.Delete("/a", -1),
)
STREAM = _framed([_connect_frame(), *(_request(number, each) for number, each in enumerate(REQUESTS, 1))])
"""A whole conversation of a client."""


def _port(data: bytes) -> None:
    """One client's bytes. What is logged leads to the same tree, and another client goes on working."""
    registry = Registry(Tree(), RegistryOptions(), FakeClock(), lambda size: b"p" * size)
    other, peer = registry.connected("127.0.0.2"), registry.connected("127.0.0.1")
    registry.received(other, _connect_frame())
    for frame in Framer(4096).feed(data)[:_FRAMES_MAX]:
        if peer.is_open:
            registry.received(peer, frame)
    registry.disconnected(peer)
    registry.tick()
    assert other.is_open
    records: list[bytes] = []
    for effect in registry.take_effects():
        if isinstance(effect, Append):
            records.append(effect.record)
        elif isinstance(effect, Compact):
            records += effect.records
    assert encode_snapshot(load(records)) == encode_snapshot(registry.tree)


def _log(data: bytes) -> None:
    loader = Loader()
    for record in pieces(data, 64):
        loader.feed(record)
    # Whatever was believed can be written again.
    assert encode_snapshot(load(encode_snapshot(loader.tree))) == encode_snapshot(loader.tree)


def _log_seeds() -> list[bytes]:
    registry = Registry(Tree(), RegistryOptions(), FakeClock(), lambda size: b"p" * size)
    peer = registry.connected("127.0.0.1")
    for frame in Framer().feed(STREAM)[:-1]:
        registry.received(peer, frame)
    records = [effect.record for effect in registry.take_effects() if isinstance(effect, Append)]
    return [
        joined(records),
        joined(encode_snapshot(registry.tree)),
        joined([*records, *encode_snapshot(registry.tree)]),
    ]


def _nodes(data: bytes) -> None:
    text = data.decode(errors="replace")
    split_connect(text)
    for parsed in (parse_uri(data), parse_number(data), TopicNode.parse(data), StoredOffset.parse(data)):
        if isinstance(parsed, TopicNode | StoredOffset):
            assert type(parsed).parse(parsed.encode()) == parsed
    for kind in (Replica, BrokerPartition):
        found = kind.parse(text)
        assert found is None or kind.parse(str(found)) == found
    Replica.parse_child(0, text)


TARGETS = (
    Target(
        "registry",
        refusing(_port),
        [STREAM, _framed([_connect_frame(), _request(1, REQUESTS[9])])],
        [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"/", b"/a", b"/zookeeper", b"\0\0\0\x01"],
    ),
    Target(
        "registry-log", refusing(_log), _log_seeds(), [b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x7f\xff\xff\xff"]
    ),
    Target(
        "registry-nodes",
        _nodes,
        [
            b"meta://127.0.0.1:8123",
            b'{"numParts":3,"broker":"0-m"}',
            b"-1-4096",
            b"12345-4096",
            b"0-s1",
            b"slave2",
            b"[::1]:2181/root",
        ],
        [b"-", b"{", b"[", b":", b'"', *EDGES],
    ),
)
