"""Every file that an operator or a developer writes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from metaserver.client.profile import load_profile
from metaserver.config import ServerConfig, parse_server_config, parse_slave_config
from metaserver.config.edit import add_topic, change_topic, remove_topic
from metaserver.config.expressions import evaluate
from metaserver.config.layout import decode_file
from metaserver.config.merge import merge_master
from metaserver.config.pair import parse_pair_config
from metaserver.config.users import parse_users
from metaserver.errors import ConfigError
from tests.fuzzing.target import DEEP, EDGES, Target, refusing
from tests.support import ROOT

_BASE = Path("/base")
_CONF = ROOT / "conf"
_INI_WORDS = (
    b"[",
    b"]",
    b"=",
    b":",
    b"\\",
    b"\\u",
    b"\n",
    b"[topic=",
    b"#",
    b";",
    b"${",
    b"'",
    b"(",
    b"~",
    b"<<",
    *EDGES,
)


def _server(data: bytes) -> None:
    for lenient in (False, True):
        try:
            config = parse_server_config(data, source="server.ini", base_directory=_BASE, lenient=lenient)
        except ConfigError:
            continue
        _edited(config, lenient=lenient)


def _edited(config: ServerConfig, *, lenient: bool) -> None:
    """What the loader takes, the editors take too, and leave something that it takes."""
    text = decode_file(config.source_bytes, "server.ini")
    topic = config.topics[0].name
    texts = [merge_master(text, text, lenient=lenient)]
    texts.append(change_topic(text, topic, {"numPartitions": "7"}, lenient=lenient))
    if all(each.name != "added" for each in config.topics):
        added = add_topic(text, "added", {"numPartitions": "2"}, lenient=lenient)
        texts += [added, remove_topic(added, "added", lenient=lenient)]
    for edited in texts:
        again = parse_server_config(edited, source="server.ini", base_directory=_BASE, lenient=lenient)
        assert {each.name for each in config.topics} <= {each.name for each in again.topics}


def _properties(data: bytes) -> None:
    for lenient in (False, True):
        for is_gregor in (False, True):
            with suppress(ConfigError):
                parse_slave_config(
                    data, source="f", base_directory=_BASE, lenient=lenient, is_gregor=is_gregor
                )
        with suppress(ConfigError):
            parse_pair_config(data, source="f", lenient=lenient)


def _profile(data: bytes) -> None:
    descriptor = os.memfd_create("client.toml")
    try:
        os.write(descriptor, data)
        load_profile("orders", f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _users(data: bytes) -> None:
    parse_users(data, source="users.toml")


def _expression(data: bytes) -> None:
    evaluate(data.decode(errors="replace"))


_SERVER_INI = b"""[system]
brokerId=0
serverPort=8123
numPartitions=${system.x}1
unflushThreshold=0
unflushInterval=1000*10
maxSegmentSize=1024*1024*1024
maxTransferSize=1024*1024
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?
[zookeeper]
zk.zkConnect=localhost:2181
[filters]
mine=attribute = 'x'
[topic=test]
numPartitions=4
unflushThreshold=1
group.g1=mine
[topic=other]
""".replace(b"${system.x}", b"")

TARGETS = (
    Target("server.ini", _server, [_SERVER_INI, (_CONF / "server.ini").read_bytes()], _INI_WORDS),
    Target(
        "properties",
        _properties,
        [
            (_CONF / f"{name}.properties").read_bytes()
            for name in ("async_slave", "gregor_slave", "samsa_master")
        ],
        (b"slaveId=1\n", b"=", b":", b" ", b"\\", b"\\u00e4", b"\\uD800", b"#", b"!", b"\n", *EDGES),
    ),
    Target(
        "client.toml",
        refusing(_profile),
        [
            b"a = " + DEEP,
            (_CONF / "client.toml").read_bytes(),
            b'[profiles.orders]\nservers = "127.0.0.1:2181"\ngroup = "g"\n',
        ],
        (b"[", b"]", b"{a=", b"=", b'"', b"'''", b"\n", b"1e999", b"nan", b"true", b"1979-05-27", *EDGES),
    ),
    Target(
        "users.toml",
        refusing(_users),
        [
            b"a = " + DEEP,
            (_CONF / "users.toml.sample").read_bytes(),
            b'anonymous = "read"\n[users.ann]\nrole = "admin"\ntoken = "0123456789abcdef0"\n',
        ],
        (b"[", b"]", b"{a=", b"=", b'"', b"[users.", b"role", b"\n", b"0x1", b"nan", *EDGES),
    ),
    Target(
        "expressions",
        refusing(_expression),
        [b"1024*1024", b"-(1 + 2) << 3 % 5", b"!true && 1 < 2 || false", b"~0x10 ^ 7"],
        (b"(", b"-", b"!", b"~", b"*", b"<<", b"/0", b"**", *EDGES),
    ),
)
