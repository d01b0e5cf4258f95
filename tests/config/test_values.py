from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import values
from metaserver.config.models import DeletePolicy
from metaserver.errors import ConfigError
from metaserver.names import AckLevel

if TYPE_CHECKING:
    from collections.abc import Callable


def problem(read: Callable[[str], object], text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def test_integer_at_its_limits() -> None:
    read = values.integer(1, 10)
    assert (read("1"), read("5*2")) == (1, 10)
    assert problem(read, "0") == "0 is not in 1 to 10"
    assert problem(read, "5 + 6") == "'5 + 6' is 11, which is not in 1 to 10"
    assert "is a boolean" in problem(read, "true")
    assert problem(read, "abc") == "'abc' is no number; write a whole one from 1 to 10"


def test_ack_levels() -> None:
    assert values.ack_level("slave_disk") is AckLevel.SLAVE_DISK
    said = "'disc' is no level; write one of memory, disk, slave, slave_disk"
    assert problem(values.ack_level, "disc") == said


def test_what_32_bits_would_make_of_it_is_named() -> None:
    said = problem(values.integer(1), "1024*1024*1024*2")
    assert said == (
        "'1024*1024*1024*2' is 2147483648, which is not in 1 to 2147483647 (32 bits would make -2147483648 of it)"
    )
    assert "(32 bits would make 1 of it)" in problem(values.integer(1), "4294967297")
    assert "32 bits" not in problem(values.integer(1), "0")
    assert values.integer(1, values.LONG_MAX)("4294967297") == 4294967297


def test_boolean() -> None:
    assert values.boolean("1 < 2") is True
    assert "write true or false" in problem(values.boolean, "1")


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("TRUE", True), ("tRue", True), ("yes", False), ("1", False), ("1<2", False)],
)
def test_lenient_boolean(text: str, value: bool) -> None:
    assert values.lenient_boolean(text) is value


def test_paths_hold_no_control_characters() -> None:
    assert values.path_text("a b/ü") == "a b/ü"
    assert "write \\\\" in problem(values.path_text, "C:\new")
    assert "control character" in problem(values.path_text, "a\x00")


def test_words() -> None:
    assert values.word("com.example.Filter$1") == "com.example.Filter$1"
    assert "without blanks" in problem(values.word, "a b")


@pytest.mark.parametrize(
    "text", ["a", "broker-1.example.com", "10.0.0.1", "[::1]", "[fe80::1%eth0]", "host1", "1host", "a.b."]
)
def test_advertised_hosts(text: str) -> None:
    assert values.advertised_host(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "a_b",
        "-a",
        "a-",
        "a..b",
        "10.0.0",
        "10.0.0.256",
        "1.2.3.4.5",
        "a.1b",
        "a b",
        "a:1",
        "[::1",
        "[a]",
        "[1:2]",
        "::1::",
        "ü",
        "a" * 254,
    ],
)
def test_no_advertised_hosts(text: str) -> None:
    assert "is no host name" in problem(values.advertised_host, text)


def test_an_advertised_ipv6_address_needs_brackets() -> None:
    assert problem(values.advertised_host, "::1").endswith("write [::1]")


@pytest.mark.parametrize(
    ("text", "value"), [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("[::1]", "::1"), ("localhost", "localhost")]
)
def test_bind_hosts(text: str, value: str) -> None:
    assert values.bind_host(text) == value


@pytest.mark.parametrize("text", ["1.2.3", "a_b", "[localhost]", "[", "*"])
def test_no_bind_hosts(text: str) -> None:
    assert "is no address" in problem(values.bind_host, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a:1", ("a", 1)), ("127.0.0.1:65535", ("127.0.0.1", 65535)), ("[::1]:8123", ("::1", 8123))],
)
def test_host_and_port(text: str, value: tuple[str, int]) -> None:
    assert values.host_and_port(text) == value


@pytest.mark.parametrize(
    "text",
    ["a", "a:", ":1", "a:0", "a:65536", "a:x", "a:\u0661", "::1:8123", "[a]:1", "a_b:1", "a:+1", "[]:1"],
)
def test_no_host_and_port(text: str) -> None:
    assert "is no HOST:PORT" in problem(values.host_and_port, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("localhost:2181", "localhost:2181"),
        ("a:1, b:2", "a:1,b:2"),
        ("a,b", "a,b"),
        ("a:1,b:2/meta/x/", "a:1,b:2/meta/x"),
        ("a:1/", "a:1/"),
    ],
)
def test_connect_strings(text: str, value: str) -> None:
    assert values.connect_string(text) == value


@pytest.mark.parametrize("text", ["a:1,", ",", "a:b", "a b", "/x", "a:1/x//y"])
def test_no_connect_strings(text: str) -> None:
    assert "is no" in problem(values.connect_string, text)


@pytest.mark.parametrize(
    ("text", "value"), [("meta", "/meta"), ("/meta/", "/meta"), ("/a/b", "/a/b"), ("/", "/")]
)
def test_zookeeper_paths(text: str, value: str) -> None:
    assert values.zookeeper_path(text) == value


@pytest.mark.parametrize("text", ["/a//b", "/a/../b", "a/.", "a\x01"])
def test_no_zookeeper_paths(text: str) -> None:
    assert "is no node path" in problem(values.zookeeper_path, text)


@pytest.mark.parametrize(
    ("text", "action", "seconds", "compress"),
    [
        ("delete,168", "delete", 604800, False),
        ("delete,168h", "delete", 604800, False),
        ("delete, 30m", "delete", 1800, False),
        ("delete,5s", "delete", 5, False),
        ("delete,0", "delete", 0, False),
        ("archive,72", "archive", 259200, False),
        ("archive,1,true", "archive", 3600, True),
        ("archive , 1 , FALSE", "archive", 3600, False),
    ],
)
def test_delete_policies(text: str, action: str, seconds: int, compress: bool) -> None:
    policy = values.delete_policy(text)
    assert (policy.action, policy.age_seconds, policy.compress) == (action, seconds, compress)
    assert values.delete_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no action"),
        ("remove,1", "is no action"),
        ("Delete,1", "is no action"),
        ("delete", "nothing is no age"),
        ("delete,", "'' is no age"),
        ("delete,1d", "'1d' is no age"),
        ("delete,-1", "'-1' is no age"),
        ("delete,1.5", "is no age"),
        ("delete,1234567890", "is no age"),
        ("delete,1,true", "is too much"),
        ("archive,1,yes", "is too much"),
        ("archive,1,true,1", "is too much"),
    ],
)
def test_no_delete_policies(text: str, said: str) -> None:
    assert said in problem(values.delete_policy, text)


@given(st.integers(0, 10**8), st.booleans())
def test_a_policy_survives_its_text(seconds: int, compress: bool) -> None:
    policy = DeletePolicy(action="archive", age_seconds=float(seconds), compress=compress)
    assert values.delete_policy(str(policy)) == policy


READERS: list[Callable[[str], object]] = [
    values.integer(1),
    values.boolean,
    values.lenient_boolean,
    values.path_text,
    values.word,
    values.advertised_host,
    values.bind_host,
    values.host_and_port,
    values.connect_string,
    values.zookeeper_path,
    values.delete_policy,
]


@given(st.sampled_from(READERS), st.one_of(st.text(), st.text(st.sampled_from("0129a-.:[]%,/ delt"))))
def test_any_text_gives_a_value_or_a_problem(read: Callable[[str], object], text: str) -> None:
    try:
        read(text)
    except ConfigError as error:
        said = error.problems
        assert len(said) == 1
