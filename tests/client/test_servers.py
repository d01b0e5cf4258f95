"""Where a client begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.servers import Servers, format_address
from metaserver.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metaq://host:1", Servers(False, (("host", 1),))),
        (" metaq://a:1, b:2 /", Servers(False, (("a", 1), ("b", 2)))),
        ("zookeeper://h:2181", Servers(True, (("h", 2181),))),
        ("zookeeper://a:1,b:2/x/y/", Servers(True, (("a", 1), ("b", 2)), "/x/y")),
        ("zookeeper://h:65535/", Servers(True, (("h", 65535),))),
        ("metaq://[::1]:8123", Servers(False, (("::1", 8123),))),
    ],
)
def test_what_reads_as_servers(text: str, expected: Servers) -> None:
    assert Servers.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin"),
        ("metaq://host:70000", "no HOST:PORT with a port from 1 to 65535"),
        (f"metaq://host:{'9' * 5000}", "no HOST:PORT"),
        ("host:1", "must begin"),
        ("http://host:1", "must begin"),
        ("METAQ://host:1", "must begin"),
        ("metaq:host:1", "must begin"),
        ("metaq://", "'' is no HOST:PORT"),
        ("metaq://host", "'host' is no"),
        ("metaq://:1", "':1' is no"),
        ("metaq://host:", "'host:' is no"),
        ("metaq://host:0", "'host:0' is no"),
        ("metaq://host:65536", "is no"),
        ("metaq://host:-1", "is no"),
        ("metaq://host:\uff11", "is no"),
        ("metaq://::1:8123", "is no"),
        ("metaq://[]:1", "is no"),
        ("metaq://a:1,", "'' is no"),
        ("metaq://a:1/x", "takes no path"),
    ],
)
def test_what_does_not(text: str, reason: str) -> None:
    with pytest.raises(
        ConfigError, match=r"write zookeeper://HOST:2181,HOST:2181 or metaq://HOST:8123"
    ) as caught:
        Servers.parse(text)
    assert reason in str(caught.value)


HOSTS = st.text("abc.-09", min_size=1, max_size=8) | st.just("::1") | st.just("fe80::1")


@given(st.lists(st.tuples(HOSTS, st.integers(1, 65535)), min_size=1, max_size=4))
def test_addresses_survive_the_way_there_and_back(addresses: list[tuple[str, int]]) -> None:
    text = ",".join(format_address(host, port) for host, port in addresses)
    found = Servers.parse(f"metaq://{text}")
    assert found.addresses == tuple(addresses)
    assert found.connect == text
