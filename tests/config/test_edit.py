"""A file keeps everything that a change of one topic does not speak of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import parse_server_config
from metaserver.config.edit import add_topic, change_topic, remove_topic
from metaserver.config.ini import parse_ini
from metaserver.config.text import BLANKS, Problems
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = """\
# Our broker.
[system]
brokerId=0
numPartitions=1

; orders of the shop
[topic=orders]
numPartitions=2
# for the auditors
deleteWhen=0 0 6 * * ?

[topic=mail]
stat=true

# The next lines are an example.
;[topic=example]
;stat=true

[zookeeper]
zk.zkRoot=/meta
"""

NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/"), min_size=1)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def sections(text: str) -> dict[str, dict[str, str]]:
    problems = Problems("a test")
    found = parse_ini(text, problems, lenient=False)
    problems.raise_if_any()
    return {
        name: {key: entry.value for key, entry in one.entries.items() if entry.value}
        for name, one in found.items()
    }


def test_a_new_topic_comes_behind_the_others() -> None:
    assert add_topic(FILE, "news", {"numPartitions": "3"}) == FILE.replace(
        ";stat=true\n\n[zoo", ";stat=true\n\n[topic=news]\nnumPartitions=3\n\n[zoo"
    )


def test_a_file_without_topics_and_without_a_last_line_end() -> None:
    assert add_topic("[system]\r\nbrokerId=0", "t", {}) == "[system]\r\nbrokerId=0\r\n\r\n[topic=t]\r\n"


def test_values_change_in_their_place() -> None:
    changed = change_topic(FILE, "orders", {"numPartitions": "4", "stat": "true"})
    assert changed == FILE.replace("numPartitions=2", "numPartitions=4").replace(
        "0 0 6 * * ?\n", "0 0 6 * * ?\nstat=true\n"
    )


def test_a_value_is_taken_away_and_its_comment_stays() -> None:
    assert change_topic(FILE, "orders", {"deleteWhen": None, "stat": None}) == FILE.replace(
        "deleteWhen=0 0 6 * * ?\n", ""
    )


def test_the_value_that_counts_is_the_one_that_changes() -> None:
    text = "[system]\n[topic=a]\nstat=true\n[topic=b]\n[topic=a]\nstat=false\n"
    assert change_topic(text, "a", {"stat": "1"}) == text.replace("stat=false", "stat=1")
    assert change_topic(text, "a", {"stat": None}) == "[system]\n[topic=a]\n[topic=b]\n[topic=a]\n"


def test_a_topic_goes_with_its_comments_and_leaves_those_of_others() -> None:
    assert remove_topic(FILE, "orders") == FILE.replace(
        FILE[FILE.index("; orders") : FILE.index("[topic=mail]")], ""
    )
    assert remove_topic(FILE, "mail") == FILE.replace("[topic=mail]\nstat=true\n", "")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda: add_topic(FILE, "mail", {}), "there is a section [topic=mail] already"),
        (lambda: change_topic(FILE, "nobody", {}), "there is no section [topic=nobody]"),
        (lambda: remove_topic(FILE, "nobody"), "there is no section [topic=nobody]"),
        (lambda: remove_topic("no equals sign", "t"), "server.ini"),
    ],
)
def test_what_cannot_be_done(change: Callable[[], str], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        change()
    assert problem in str(refused.value)


@given(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), VALUES)
def test_whatever_is_written_is_read_again(name: str, entries: dict[str, str], other: str) -> None:
    before = sections(FILE)
    name = f"new{name}"
    added = add_topic(FILE, name, entries)
    # Blank means: as if the key were not there.
    wanted = {key: value.strip(BLANKS) for key, value in entries.items() if value.strip(BLANKS)}
    assert sections(added) == before | {f"topic={name}": wanted}
    assert list(sections(added))[:-1] == [name for name in before if name != "zookeeper"] + [f"topic={name}"]
    for key in entries:
        changed = change_topic(added, name, {key: other})
        rest = {one: value for one, value in wanted.items() if one != key}
        own = {key: other.strip(BLANKS)} if other.strip(BLANKS) else {}
        assert sections(changed)[f"topic={name}"] == rest | own
        assert sections(change_topic(changed, name, {key: None}))[f"topic={name}"] == rest
    assert sections(remove_topic(added, name)) == before
    assert remove_topic(added, name).replace("\n", "") == FILE.replace("\n", "")


def test_the_shipped_file_stays_good() -> None:
    shipped = (Path(__file__).parents[2] / "conf" / "server.ini").read_text(encoding="utf-8")
    changed = add_topic(shipped, "added", {"numPartitions": "2", "ackLevel": "disk"})
    config = parse_server_config(changed, source="a test", base_directory=Path("/"))
    found = config.topic_config("added")
    assert found is not None
    assert found.partition_count == 2
    assert remove_topic(changed, "added").rstrip() == shipped.rstrip()
