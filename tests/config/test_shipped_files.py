"""The files in ``conf`` and the page about them tell what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from metaserver.config import (
    PairConfig,
    ServerConfig,
    SlaveConfig,
    TopicConfig,
    ZooKeeperConfig,
    apply_slave,
    load_pair_config,
    load_server_config,
    load_slave_config,
    parse_server_config,
    schema,
)

ROOT = Path(__file__).parents[2]
SERVER_INI = ROOT / "conf" / "server.ini"
SLAVE_PROPERTIES = ROOT / "conf" / "async_slave.properties"
SERVER_LINES = SERVER_INI.read_text(encoding="utf-8").splitlines()
SLAVE_LINES = SLAVE_PROPERTIES.read_text(encoding="utf-8").splitlines()

_ENTRY = re.compile(r"(?P<off>[;#]?)(?P<key>[A-Za-z][\w.-]*)=(?P<value>.*)")


def shown(lines: list[str]) -> dict[str, tuple[bool, str, int]]:
    """Key to: is it set, the value shown, the number of its line."""
    found = {}
    for number, line in enumerate(lines):
        entry = _ENTRY.fullmatch(line)
        if entry is not None:
            assert entry["key"] not in found, f"{entry['key']} comes twice"
            found[entry["key"]] = (not entry["off"], entry["value"], number)
    return found


def default_of(attrs_class: type[attrs.AttrsInstance], field: str) -> object:
    default = getattr(attrs.fields(attrs_class), field).default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


SERVER = shown(SERVER_LINES)
SLAVE = shown(SLAVE_LINES)
SAMSA = shown((ROOT / "conf" / "samsa_master.properties").read_text(encoding="utf-8").splitlines())
GREGOR = shown((ROOT / "conf" / "gregor_slave.properties").read_text(encoding="utf-8").splitlines())
ALL_SERVER_KEYS = [*schema.SYSTEM_KEYS, *schema.ZOOKEEPER_KEYS]


def test_the_file_shows_every_key_and_no_other() -> None:
    assert set(SERVER) - {"group.test-group"} == set(ALL_SERVER_KEYS)
    assert set(SLAVE) == set(schema.SLAVE_KEYS)
    assert set(SAMSA) == set(schema.SAMSA_KEYS)
    assert set(GREGOR) == set(schema.GREGOR_KEYS)


@pytest.mark.parametrize("key", [name for name, (is_set, _, _) in SAMSA.items() if not is_set])
def test_a_key_of_the_pair_that_is_off_shows_its_default(key: str) -> None:
    key_of = schema.SAMSA_KEYS[key]
    assert key_of.read(SAMSA[key][1]) == default_of(PairConfig, key_of.field)


def test_the_shipped_pair_is_one() -> None:
    pair = load_pair_config(ROOT / "conf" / "samsa_master.properties")
    slave = load_slave_config(ROOT / "conf" / "gregor_slave.properties", is_gregor=True)
    assert pair.slave_address == ("127.0.0.1", slave.server_port)
    assert slave.is_gregor


@pytest.mark.parametrize("key", ALL_SERVER_KEYS)
def test_each_key_is_documented_in_two_lines_at_most(key: str) -> None:
    _check_documented(SERVER_LINES, SERVER[key][2])


@pytest.mark.parametrize("key", schema.SLAVE_KEYS)
def test_each_key_of_the_slave_is_documented_in_two_lines_at_most(key: str) -> None:
    _check_documented(SLAVE_LINES, SLAVE[key][2])


def _check_documented(lines: list[str], number: int) -> None:
    comment = 0
    while lines[number - comment - 1].startswith("# "):
        comment += 1
    assert 1 <= comment <= 2
    assert all(len(line) <= 120 for line in lines[number - comment : number])


@pytest.mark.parametrize("key", ALL_SERVER_KEYS)
def test_a_key_that_is_not_set_shows_the_default_of_the_code(key: str) -> None:
    is_set, value, _ = SERVER[key]
    if key in schema.ZOOKEEPER_KEYS:
        known, attrs_class = schema.ZOOKEEPER_KEYS[key], ZooKeeperConfig
    elif key in schema.SERVER_KEYS:
        known, attrs_class = schema.SERVER_KEYS[key], ServerConfig  # type: ignore[assignment]
    else:
        known, attrs_class = schema.DEFAULTS_KEYS[key], TopicConfig  # type: ignore[assignment]
    if known.is_required:
        assert is_set
    elif not is_set and value:
        assert known.read(value) == default_of(attrs_class, known.field)
    elif not is_set:
        # Blank is absent; only what depends on the machine or on another key has no text for its default.
        assert default_of(attrs_class, known.field) in {None, attrs.NOTHING} or key.endswith("ThreadCount")


def test_the_file_without_its_marks_means_the_same() -> None:
    lines = [line[1:] if _ENTRY.fullmatch(line) and line.startswith(";") else line for line in SERVER_LINES]
    uncommented = parse_server_config("\n".join(lines), source="f", base_directory=ROOT)
    assert uncommented == load_server_config(SERVER_INI)


def test_what_the_file_sets() -> None:
    found = load_server_config(SERVER_INI)
    assert found.broker_id == 0
    assert (found.bind_address, found.server_port, found.dashboard_http_port) == ("127.0.0.1", 8123, 8120)
    assert found.data_path == ROOT / "data" / "master"
    assert (found.max_segment_size_bytes, found.max_transfer_size_bytes) == (2**30, 2**20)
    assert (found.stat, found.update_consumer_offsets) == (True, False)
    assert found.zookeeper == ZooKeeperConfig()
    (topic,) = found.topics
    assert (topic.name, topic.partition_count, topic.unflush_threshold, topic.unflush_interval_ms) == (
        "test",
        1,
        0,
        10_000,
    )
    assert str(topic.delete_policy) == "delete,168h"
    assert topic.delete_when == "0 0 6,18 * * ?"


def test_master_and_slave_share_a_machine_untouched() -> None:
    master, slave = load_server_config(SERVER_INI), load_slave_config(SLAVE_PROPERTIES)
    both = apply_slave(master, slave)
    assert slave.slave_id == 0
    assert slave.slave_group == "meta-slave-group"
    assert slave.slave_max_delay_ms == default_of(SlaveConfig, "slave_max_delay_ms") == 500
    assert slave.auto_sync_master_config is False
    assert slave.master_address == (master.bind_address, master.server_port)
    ports = [master.server_port, master.dashboard_http_port, both.server_port, both.dashboard_http_port]
    assert ports == [8123, 8120, 8124, 8121]
    assert both.data_path == ROOT / "data" / "slave"
    assert both.bind_address == master.bind_address
    assert not {topic.data_path for topic in both.topics} & {topic.data_path for topic in master.topics}


@pytest.mark.parametrize(
    "key", sorted({*ALL_SERVER_KEYS, *schema.TOPIC_KEYS, *schema.SLAVE_KEYS, "group.GROUP"})
)
def test_the_page_has_a_row_for_each_key(key: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
    tables = [
        schema.SYSTEM_KEYS,
        schema.ZOOKEEPER_KEYS,
        schema.TOPIC_KEYS,
        schema.SLAVE_KEYS,
        {"group.GROUP": None},
    ]
    assert len(rows) == sum(key in table for table in tables)


@pytest.mark.parametrize("key", sorted(set(ALL_SERVER_KEYS)))
def test_the_page_shows_the_default_of_the_code(key: str) -> None:
    is_set, value, _ = SERVER[key]
    if is_set or not value:
        return
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{key}` |"))
    assert f" {value} |" in row
