from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import parse_server_config
from metaserver.config.ini import parse_ini
from metaserver.config.layout import decode_file, encode_as
from metaserver.config.merge import (
    OWN_SYSTEM_KEYS,
    OWN_TOPIC_KEYS,
    merge_master,
    stamp,
    stamped_checksum,
)
from metaserver.config.schema import OUR_KEYS, SYSTEM_KEYS, TOPIC_KEYS
from metaserver.config.text import Problems
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN = """\
# The slave's file.

[system]
# The number.
brokerId=0
serverPort=8124
; told to clients
hostName=slave.example.com
dataPath=data/slave
numPartitions=1
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1024*1024
maxTransferSize=1048576
stat=true
maxLineBytes=4096

[zookeeper]
# Ours.
zk.zkConnect=zk:2181

# All orders.
[topic=orders]
# How many.
numPartitions=2
dataPath=/disk2

# Old ones.
[topic=old]
deletePolicy=delete,1

[notes]
free=text
"""
MASTER = """\
[system]
brokerId=0
serverPort=8123
dashboardHttpPort=8120
hostName=master.example.com
dataPath=data/master
numPartitions=4
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1024*1024
maxTransferSize=1048576
deletePolicy=delete,\\
   24

[zookeeper]
zk.zkConnect=elsewhere:2181

; Everything new.
[topic=added]
dataPath=/master
; a filter
group.readers=size > 100

[topic=orders]
numPartitions=2
dataPath=/master
stat=true
"""
MERGED = """\
# The slave's file.

[system]
# The number.
brokerId=0
serverPort=8124
; told to clients
hostName=slave.example.com
dataPath=data/slave
numPartitions=4
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1024*1024
maxTransferSize=1048576
deletePolicy=delete,\\
   24

[zookeeper]
# Ours.
zk.zkConnect=zk:2181

; Everything new.
[topic=added]
; a filter
group.readers=size > 100

# All orders.
[topic=orders]
# How many.
numPartitions=2
dataPath=/disk2
stat=true

[notes]
free=text
"""


def values(text: str) -> dict[str, dict[str, str]]:
    """What counts; blank is absent."""
    problems = Problems("f")
    sections = parse_ini(text, problems, lenient=False)
    problems.raise_if_any()
    return {
        name: {key: entry.value for key, entry in section.entries.items() if entry.value}
        for name, section in sections.items()
    }


def topics(text: str, without: Mapping[str, str] = OWN_TOPIC_KEYS) -> list[tuple[str, dict[str, str]]]:
    """In the order of the file."""
    return [
        (name, {key: value for key, value in entries.items() if key not in without})
        for name, entries in values(text).items()
        if name.startswith("topic=")
    ]


def test_one_of_everything() -> None:
    assert merge_master(OWN, MASTER) == MERGED
    merged = parse_server_config(MERGED, source="f", base_directory=Path("/"))
    assert merged.zookeeper.connect == "zk:2181"
    assert merge_master(MERGED, MASTER) == MERGED


def test_a_java_master_takes_no_key_away_that_its_file_cannot_have() -> None:
    assert "maxLineBytes=4096\n" in merge_master(OWN, MASTER, is_java=True)
    assert "stat=true\n\n[zookeeper]" not in merge_master(OWN, MASTER, is_java=True)
    assert "maxLineBytes" not in merge_master(OWN, MASTER)


def test_the_tables_name_keys_that_are_there() -> None:
    assert set(OWN_SYSTEM_KEYS) <= set(SYSTEM_KEYS)
    assert set(OWN_TOPIC_KEYS) <= set(TOPIC_KEYS)
    assert "bindAddress" in OUR_KEYS
    assert "stat" not in OUR_KEYS


def test_the_page_names_what_stays() -> None:
    page = Path(__file__).parents[2] / "docs" / "replication.md"
    (row,) = (
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| [system]: `")
    )
    assert set(re.findall(r"`(\w+)`", row)) == set(OWN_SYSTEM_KEYS) | set(OWN_TOPIC_KEYS)


def test_line_ends_are_the_slaves() -> None:
    merged = merge_master(OWN.replace("\n", "\r\n"), MASTER)
    assert merged == MERGED.replace("\n", "\r\n")
    assert merge_master(OWN, MASTER.replace("\n", "\r\n")) == MERGED


def test_a_file_without_its_last_line_end() -> None:
    merged = merge_master(
        "[system]\nbrokerId=0\n[topic=a]", "[system]\nstat=true\n[topic=a]\n[topic=b]\nstat=true"
    )
    assert merged == "[system]\nbrokerId=0\nstat=true\n[topic=a]\n\n[topic=b]\nstat=true\n"


def test_the_order_of_topics_is_the_masters() -> None:
    own = "[system]\n; a\n[topic=a*]\n[zookeeper]\n; ab\n[topic=ab*]\n"
    merged = merge_master(own, "[system]\n[topic=ab*]\n[topic=a*]\n")
    assert merged == "[system]\n; ab\n[topic=ab*]\n; a\n[topic=a*]\n[zookeeper]\n"


def test_a_section_in_two_places_is_edited_where_it_counts() -> None:
    own = "[system]\nstat=true\nstat=false\n[topic=a]\n[system]\nbrokerId=1\n"
    assert merge_master(own, "[system]\nstat=true\n[topic=a]\n") == own.replace("stat=false", "stat=true")
    assert merge_master(own, "[system]\n[topic=a]\n") == "[system]\n[topic=a]\n[system]\nbrokerId=1\n"


@pytest.mark.parametrize(
    ("own", "master", "problem"),
    [
        ("[system]\n[topic=a", MASTER, "server.ini:2: '[topic=a' has no closing bracket"),
        (OWN, "[system]\nx\n", "the master's server.ini:2: [system]: 'x' is no key=value line"),
        (OWN, "[topic=a]\n", "the master's server.ini: [system]: the section is missing"),
        (OWN, "[system]\na=\\", "the master's server.ini:2: the file ends within a line"),
    ],
)
def test_a_text_that_cannot_be_read(own: str, master: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_master(own, master)
    assert str(caught.value).startswith(problem)


def test_the_stamp_says_what_was_merged_and_is_no_part_of_it() -> None:
    stamped = stamp(MERGED, 123)
    assert (stamped_checksum(stamped), stamped_checksum(MERGED)) == (123, None)
    assert stamped.endswith(MERGED)
    assert stamp(stamped, 456) == stamp(MERGED, 456)
    assert merge_master(stamped, MASTER) == MERGED
    # A master that was a slave once.
    assert merge_master(OWN, stamp(MASTER, 7)) == MERGED
    assert stamp("[system]\r\n", 1).endswith("autoSyncMasterConfig.\r\n[system]\r\n")


@pytest.mark.parametrize(
    ("old", "text", "expected"),
    [
        pytest.param("ä".encode(), "数据", "数据".encode(), id="UTF-8"),
        pytest.param(b"\xef\xbb\xbfa", "数据", b"\xef\xbb\xbf" + "数据".encode(), id="UTF-8 with its mark"),
        pytest.param("数据".encode("gbk"), "数据", "数据".encode("gbk"), id="GBK"),
        pytest.param("数据".encode("gbk"), "🐟", "🐟".encode(), id="not in GBK"),
    ],
)
def test_the_encoding_stays_where_it_can(old: bytes, text: str, expected: bytes) -> None:
    assert encode_as(text, old) == expected
    assert decode_file(expected, "f") == text


# Any two files.

_KEYS = [*SYSTEM_KEYS]
_VALUES = st.sampled_from(["", "1", "2", "a", "x\\\n  y", "C:\\\\d", "=", "数"])
_COMMENTS = st.sampled_from(["", "# note", "; note", "  # note", "# ends with \\"])


def _body(keys: list[str]) -> st.SearchStrategy[list[str]]:
    entry = st.tuples(st.sampled_from(keys), st.sampled_from(["=", ":", " = "]), _VALUES).map("".join)
    return st.lists(st.one_of(entry, _COMMENTS), max_size=6)


def _section(name: str) -> st.SearchStrategy[list[str]]:
    body = _body([*TOPIC_KEYS, "group.a", "group.b"] if name.startswith("topic=") else _KEYS)
    return body.map(lambda lines: [f"[{name}]", *lines])


_NAMES = ["system", "zookeeper", "notes", "filters", "topic=a", "topic=b", "topic=c*", "topic=d"]
FILES = st.builds(
    lambda lead, sections, end, is_ended: (
        end.join([*lead, *(line.replace("\n", end) for section in sections for line in section)])
        + (end if is_ended else "")
    ),
    st.lists(_COMMENTS, max_size=2),
    st.lists(st.sampled_from(_NAMES).flatmap(_section), max_size=7).flatmap(
        lambda others: st.tuples(st.integers(0, len(others)), _section("system")).map(
            lambda found: [*others[: found[0]], found[1], *others[found[0] :]]
        )
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)


@given(FILES, FILES, st.booleans())
def test_any_two_files(own: str, master: str, is_java: bool) -> None:
    merged = merge_master(own, master, is_java=is_java)
    before, theirs, after = values(own), values(master), values(merged)
    assert merge_master(merged, master, is_java=is_java) == merged
    assert merge_master(stamp(merged, 1), master, is_java=is_java) == merged

    assert {key: value for key, value in after["system"].items() if key in OWN_SYSTEM_KEYS} == {
        key: value for key, value in before["system"].items() if key in OWN_SYSTEM_KEYS
    }
    kept = OUR_KEYS if is_java else frozenset()
    behaviour = {key: value for key, value in theirs["system"].items() if key not in OWN_SYSTEM_KEYS}
    stay = {
        key: value
        for key, value in before["system"].items()
        if key in kept and key not in behaviour and key not in OWN_SYSTEM_KEYS
    }
    assert {
        key: value for key, value in after["system"].items() if key not in OWN_SYSTEM_KEYS
    } == behaviour | stay
    for name in ("zookeeper", "notes"):
        assert after.get(name) == before.get(name)

    assert topics(merged) == topics(master)
    for name, entries in topics(merged, without={}):
        own_path = before.get(name, {}).get("dataPath")
        assert entries.get("dataPath") == own_path


@given(FILES)
def test_a_file_merged_with_itself_is_itself(text: str) -> None:
    assert merge_master(text, text) == text


@given(FILES, FILES)
def test_comments_outside_of_removed_topics_survive(own: str, master: str) -> None:
    own = own.replace("note", "mine")
    merged = merge_master(own, master)
    removed = {name for name, _ in topics(own)} - {name for name, _ in topics(master)}
    if not removed:
        comments = [line for line in own.splitlines() if "mine" in line]
        assert sorted(line for line in merged.splitlines() if "mine" in line) == sorted(comments)
