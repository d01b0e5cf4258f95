from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver.config import ServerConfig, load_server_config, parse_server_config
from metaserver.config.schema import SERVER_KEYS, SYSTEM_KEYS, TOPIC_KEYS, ZOOKEEPER_KEYS
from metaserver.errors import ConfigError
from metaserver.filters import Filter, UnknownFilter
from metaserver.names import REGISTRY_TOPIC, AckLevel

REQUIRED = {
    "brokerId": "0",
    "numPartitions": "1",
    "unflushThreshold": "0",
    "unflushInterval": "10000",
    "maxSegmentSize": "1073741824",
    "maxTransferSize": "1048576",
}


def text(system: dict[str, str] | None = None, rest: str = "[topic=test]\n") -> str:
    entries = {**REQUIRED, **(system or {})}
    return "[system]\n" + "".join(f"{key}={value}\n" for key, value in entries.items()) + rest


def parse(content: str | bytes, *, lenient: bool = False) -> ServerConfig:
    return parse_server_config(content, source="server.ini", base_directory=Path("/base"), lenient=lenient)


def problems_of(content: str | bytes, *, lenient: bool = False) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(content, lenient=lenient)
    return caught.value.problems


def test_the_smallest_file() -> None:
    content = text()
    found = parse(content)
    assert (found.broker_id, found.server_port, found.dashboard_http_port) == (0, 8123, 8120)
    assert found.bind_address == "0.0.0.0"
    assert found.host_name is None
    assert found.data_path == found.data_log_path == Path("~/meta").expanduser()
    assert found.app_class_path == Path("/base/provided")
    assert found.path == Path("server.ini")
    assert found.source_bytes == content.encode()
    assert found.checksum == zlib.crc32(content.encode())
    assert found.get_process_thread_count == 10 * (os.cpu_count() or 1)
    assert found.zookeeper.connect is None
    assert found.update_consumer_offsets is False
    (topic,) = found.topics
    assert (topic.name, topic.partition_count, topic.data_path) == ("test", 1, found.data_path)
    assert topic.own_fields == frozenset()


def test_the_default_data_path_is_in_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse(text()).data_path == Path("/home/someone/meta")


def test_paths() -> None:
    found = parse(
        text(
            {"dataPath": "data/../d", "appClassPath": "/abs"},
            "[topic=a]\ndataPath=x y\n[topic=b]\ndataPath=/z\n",
        )
    )
    assert found.data_path == found.data_log_path == Path("/base/d")
    assert found.app_class_path == Path("/abs")
    assert [topic.data_path for topic in found.topics] == [Path("/base/x y"), Path("/z")]
    assert parse(text({"dataPath": "d", "dataLogPath": "l"})).data_log_path == Path("/base/l")


def test_a_file_beside_conf(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.mkdir()
    path = conf / "server.ini"
    path.write_bytes(b"; \xc5\xe4\xd6\xc3\n" + text({"dataPath": "data"}).encode())
    found = load_server_config(path)
    assert found.path == path
    assert found.data_path == tmp_path / "data"
    assert found.source_bytes == path.read_bytes()
    assert found.checksum == zlib.crc32(path.read_bytes())


def test_the_path_is_kept_absolute_and_problems_name_it_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server.ini").write_text(text(), encoding="utf-8")
    (tmp_path / "wrong.ini").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_server_config(Path("server.ini")).path == tmp_path / "server.ini"
    with pytest.raises(ConfigError, match=r"^wrong\.ini: "):
        load_server_config(Path("wrong.ini"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_server_config(tmp_path / "server.ini")


def test_every_problem_at_once() -> None:
    content = """\
[system]
brokerid=1
serverPort=1024*1024*1024*2
foo
maxSegmentSize=1024*1024*1024*2
hostName=my_host
stat=TRUE
brokerId=1024
unflushThreshold=
[zokeeper]
zk.zkConnect=x
[zookeeper]
zk.zkRot=/meta
zk.zkSyncTimeMs=-1
[topic=a/b]
[topic=t]
deleteWhen=0 0 6 * *
deletePolicy=zap,3
numPartitions=0
status=true
group.=x
group.g=a b
"""
    assert problems_of(content) == (
        "server.ini:1: [system] maxTransferSize: is required and has no value; give it one",
        "server.ini:1: [system] numPartitions: is required and has no value; give it one",
        "server.ini:1: [system] unflushInterval: is required and has no value; give it one",
        "server.ini:2: [system] brokerid: is no known key; do you mean 'brokerId'?",
        (
            "server.ini:3: [system] serverPort: '1024*1024*1024*2' is 2147483648, which is not in 0 to 65535"
            " (32 bits would make -2147483648 of it)"
        ),
        "server.ini:4: [system]: 'foo' is no key=value line; a comment begins with ; or #",
        (
            "server.ini:5: [system] maxSegmentSize: '1024*1024*1024*2' is 2147483648, which is not in 1024 to 2147483647"
            " (32 bits would make -2147483648 of it)"
        ),
        "server.ini:6: [system] hostName: 'my_host' is no host name or address; letters, digits and - between dots are, no _",
        "server.ini:7: [system] stat: 'TRUE' has the unknown word 'TRUE'; write true",
        "server.ini:8: [system] brokerId: 1024 is not in 0 to 1023",
        "server.ini:9: [system] unflushThreshold: is required and has no value; give it one",
        "server.ini:10: [zokeeper]: is no known section; do you mean [zookeeper]?",
        "server.ini:13: [zookeeper] zk.zkRot: is no known key; do you mean 'zk.zkRoot'?",
        "server.ini:14: [zookeeper] zk.zkSyncTimeMs: -1 is not in 0 to 2147483647",
        "server.ini:15: [topic=a/b]: 'a/b' is no topic name; 1 to 200 printable ASCII characters are, without blank or slash",
        (
            "server.ini:17: [topic=t] deleteWhen: '0 0 6 * *' has 5 fields; a Quartz cron expression has six or seven:"
            " second minute hour day-of-month month day-of-week [year]"
        ),
        "server.ini:18: [topic=t] deletePolicy: 'zap' is no action; delete,168 or archive,168,true are",
        "server.ini:19: [topic=t] numPartitions: 0 is not in 1 to 100000",
        "server.ini:20: [topic=t] status: is no known key; do you mean 'stat'?",
        "server.ini:21: [topic=t] group.: '' must be printable ASCII without blanks",
        (
            "server.ini:22: [topic=t] group.g: a is no field; there are attribute, size and json.NAME, "
            "at character 1 of the filter (near 'a b')"
        ),
    )


def test_an_empty_file() -> None:
    assert problems_of("") == (
        "server.ini: [system]: the section is missing",
        "server.ini: no topic is configured; add a section [topic=NAME]",
    )


@pytest.mark.parametrize("key", REQUIRED)
def test_required_keys(key: str) -> None:
    (problem,) = problems_of(text({key: ""}))
    assert f"[system] {key}: is required" in problem


def test_lenient_passes_over_what_it_does_not_know() -> None:
    content = text(
        {"brokerid": "1", "dataPath": "C:\\data"},
        "[sytem]\nx=1\n[topic=a]\nnope=1\n[zookeeper]\nzk.x=1\n[topics=b]\n",
    )
    assert len(problems_of(content)) == 6
    found = parse(content, lenient=True)
    assert [topic.name for topic in found.topics] == ["a"]
    assert found.data_path == Path("/base/C:data")


def test_lenient_still_refuses_wrong_values() -> None:
    (problem,) = problems_of(text({"serverPort": "x"}), lenient=True)
    assert "serverPort" in problem


def test_other_sections_are_ignored() -> None:
    assert parse(text(rest="[topic=a]\n[other]\nanything=goes\n")) == parse(text(rest="[topic=a]\n"))


@pytest.mark.parametrize(
    "name",
    ["System", "sytem", "[system]", "zookeper", "ZooKeeper", "topic", "topics=a", "Topic=a", "topic a"],
)
def test_sections_that_are_nearly_known(name: str) -> None:
    (problem,) = problems_of(text(rest=f"[{name}]\n[topic=a]\n"))
    assert f"[{name}]: is no known section" in problem


def test_names_that_metaq_ignores() -> None:
    content = text(
        {"topics": "x", "path": "x", "lastModified": "x"},
        "[zookeeper]\nserverPort=x\npath=x\n[topic=a]\ntopic=x\nfilterClassNames=x\n",
    )
    assert parse(content) == parse(text(rest="[topic=a]\n"))


def test_sections_are_merged_and_the_last_value_counts() -> None:
    found = parse(
        text(
            {"stat": "nonsense"},
            "[topic=a]\nnumPartitions=2\n[system]\nstat=true\n[topic=b]\n[topic=a]\nstat=tRUE\n",
        )
    )
    assert found.stat is True
    assert [(topic.name, topic.partition_count) for topic in found.topics] == [("a", 2), ("b", 1)]


def test_a_key_that_is_set_twice_is_named() -> None:
    found = parse(text({}, "[topic=a]\nnumPartitions=2\nnumPartitions=3\nstat=true\n[topic=a]\nstat=true\n"))
    assert found.topics[0].partition_count == 3
    (warning,) = found.warnings
    assert "[topic=a] numPartitions: counts for nothing: line " in warning
    assert warning.endswith("sets the key again, to '3'")
    assert found == attrs.evolve(found, warnings=())


def test_topics_inherit_and_replace() -> None:
    found = parse(
        text(
            {"deletePolicy": "archive,1,true", "acceptPublish": "false", "stat": "true"},
            "[topic=a]\nstat=no\nunflushThreshold=-1\n[topic=b]\nacceptPublish=true\ngroup.g1=attribute = 'a'\ngroup.g2=com.B\ngroup.g3=\n"
            "[filters]\ncom.B=size > 5\n",
        )
    )
    first, second = found.topics
    assert (first.stat, first.accept_publish, first.unflush_threshold) == (False, False, -1)
    assert (second.stat, second.accept_publish, second.unflush_threshold) == (True, True, 0)
    assert first.delete_policy == second.delete_policy == found.defaults.delete_policy
    assert [(group, one.text) for group, one in second.group_filters if isinstance(one, Filter)] == [
        ("g1", "attribute = 'a'"),
        ("g2", "size > 5"),
    ]
    assert first.own_fields == {"stat", "unflush_threshold"}


def test_filters_that_cannot_be() -> None:
    wrong = text(
        rest="[topic=a]\ngroup.g1=com.acme.Paid\ngroup.g2=size >\ngroup.g3=everything\n[filters]\nbad=x = 1\n"
    )
    found = problems_of(wrong)
    assert len(found) == 3
    assert "[topic=a] group.g1: the filter com.acme.Paid is not known" in found[0]
    assert "com.acme.Paid=CONDITION" in found[0]
    assert "[topic=a] group.g2: a field, a 'text'" in found[1]
    assert "[filters] bad: x is no field" in found[2]
    (topic,) = parse(text(rest="[topic=a]\ngroup.g1=com.acme.Paid\n"), lenient=True).topics
    assert topic.group_filters == (("g1", UnknownFilter("com.acme.Paid")),)
    assert "do you mean [filters]?" in problems_of(text(rest="[topic=a]\n[filter]\n"))[0]


def test_zookeeper() -> None:
    found = parse(
        text(rest="[zookeeper]\nzk.zkConnect=a:1,b:2\nzk.zkRoot=m/\nzk.zkEnable=!true\n[topic=a]\n")
    ).zookeeper
    assert (found.connect, found.root, found.enable, found.session_timeout_ms) == (
        "a:1,b:2",
        "/m",
        False,
        30_000,
    )
    assert parse(text(rest="[zookeeper]\nzk.zkConnect=\n[topic=a]\n")).zookeeper.connect is None


def test_the_embedded_registry() -> None:
    found = parse(text(rest="[topic=a]\n")).zookeeper
    assert (found.registry_port, found.is_embedded) == (2181, True)
    for line in ("zk.zkConnect=a:1", "zk.zkEnable=false"):
        assert not parse(text(rest=f"[zookeeper]\n{line}\n[topic=a]\n")).zookeeper.is_embedded


def test_the_port_of_the_registry_is_its_own() -> None:
    for key in ("serverPort", "dashboardHttpPort"):
        content = text({key: "7000"}, "[zookeeper]\nregistryPort=7000\n[topic=a]\n")
        (problem,) = problems_of(content)
        assert f"registryPort: is 7000 like {key}" in problem
    unused = text({"serverPort": "2181"}, "[zookeeper]\nzk.zkEnable=false\n[topic=a]\n")
    assert parse(unused).server_port == 2181


def test_the_brokers_own_topic_is_not_configured() -> None:
    (problem,) = problems_of(text(rest=f"[topic={REGISTRY_TOPIC}]\n"))
    assert "is the broker's own topic" in problem
    assert parse(text(rest="[topic=*]\n")).topic_config(REGISTRY_TOPIC) is None


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("brokerId", 0, 1023),
        ("serverPort", 0, 65535),
        ("dashboardHttpPort", 0, 65535),
        ("numPartitions", 1, 100_000),
        ("unflushThreshold", -(2**31), 2**31 - 1),
        ("unflushInterval", 1, 2**31 - 1),
        ("maxSegmentSize", 1024, 2**31 - 1),
        ("maxTransferSize", 1024, 2**31 - 1),
        ("flushTxLogAtCommit", 0, 2),
        ("checkpointInterval", 1, 2**63 - 1),
        ("maxConnections", 1, 1_000_000),
        ("maxLineBytes", 512, 2**20),
        ("maxRequestBytes", 1024, 2**31 - 1),
        ("maxUnfinishedRequestBytes", 4096, 2**40),
        ("maxInflightBytes", 8 * 2**20, 2**40),
        ("maxConnectionInflightBytes", 4096, 64 * 2**20),
        ("maxPendingReplyBytes", 4096, 2**40),
        ("maxPendingReplies", 1, 1_000_000),
        ("idleTimeoutInMills", 1, 2**31 - 1),
        ("requestTimeoutInMills", 1, 2**31 - 1),
        ("writeTimeoutInMills", 1, 2**31 - 1),
        ("maxLongPollInMills", 0, 2**31 - 1),
        ("maxWaitingGets", 0, 100_000_000),
        ("stopTimeoutInMills", 0, 2**31 - 1),
        ("minFreeDiskBytes", 0, 2**50),
        ("recoveryCheckpointBytes", 4096, 2**40),
        ("flushThreadCount", 1, 256),
        ("httpRequestsPerSecond", 0, 1_000_000),
        ("scrubBytesPerSecond", 0, 2**63 - 1),
        ("scrubIntervalInMills", 1, 2**63 - 1),
    ],
)
def test_ranges(key: str, low: int, high: int) -> None:
    for value in (low, high):
        found = parse(text({key: str(value)}))
        holder = found if key in SERVER_KEYS else found.defaults
        assert getattr(holder, SYSTEM_KEYS[key].field) == value
    for value in (low - 1, high + 1):
        problems = problems_of(text({key: str(value)}))
        assert len(problems) == 1
        assert f"[system] {key}: " in problems[0] or "maxConnectionInflightBytes" in problems[0]


def test_both_ports_may_not_be_the_same() -> None:
    (problem,) = problems_of(text({"serverPort": "9000", "dashboardHttpPort": "9000"}))
    assert problem.startswith("server.ini:9: [system] dashboardHttpPort: is 9000 like serverPort")
    (problem,) = problems_of(text({"serverPort": "8120"}))
    assert "like serverPort" in problem
    assert parse(text({"serverPort": "0", "dashboardHttpPort": "0"})).server_port == 0


def test_bytes_in_flight_of_one_connection_are_part_of_the_whole() -> None:
    (problem,) = problems_of(text({"maxInflightBytes": "4096"}))
    assert "is 8388608, more than the 4096 of maxInflightBytes" in problem


@pytest.mark.parametrize(
    ("threshold", "level", "own", "expected"),
    [
        ("0", "", "", AckLevel.DISK),
        ("-1", "", "", AckLevel.DISK),
        ("1", "", "", AckLevel.MEMORY),
        ("1000", "", "unflushThreshold=0\n", AckLevel.DISK),
        ("0", "", "unflushThreshold=7\n", AckLevel.MEMORY),
        ("0", "memory", "", AckLevel.MEMORY),
        ("0", "slave", "", AckLevel.SLAVE),
        ("0", "slave", "ackLevel=slave_disk\nminSlaves=2\n", AckLevel.SLAVE_DISK),
        ("1000", "", "ackLevel=disk\n", AckLevel.DISK),
        ("0", "slave", "ackLevel=memory\nunflushThreshold=7\n", AckLevel.MEMORY),
    ],
)
def test_what_a_put_waits_for(threshold: str, level: str, own: str, expected: AckLevel) -> None:
    system = {"unflushThreshold": threshold, "ackLevel": level, "minSlaves": "3"}
    (topic,) = parse(text(system, f"[topic=test]\n{own}")).topics
    assert topic.acknowledged is expected
    assert topic.slaves_min == (2 if "minSlaves" in own else 3)


@pytest.mark.parametrize(
    ("system", "own", "problem"),
    [
        (
            {"unflushThreshold": "5", "ackLevel": "disk"},
            "",
            (
                "server.ini:4: [system] unflushThreshold: is 5 and has no effect: with ackLevel=disk every put "
                "waits for the disk; set unflushThreshold=0, or ackLevel=memory"
            ),
        ),
        (
            {"ackLevel": "slave"},
            "unflushThreshold=5\n",
            (
                "server.ini:10: [topic=test] unflushThreshold: is 5 and has no effect: with ackLevel=slave every "
                "put waits for the disk; set unflushThreshold=0, or ackLevel=memory"
            ),
        ),
        (
            {},
            "minSlaves=2\n",
            (
                "server.ini:9: [topic=test] minSlaves: has no effect: a put to this topic waits for no slave "
                "(ackLevel=disk); set ackLevel to slave or slave_disk, or remove the key"
            ),
        ),
        (
            {"ackLevel": "slave"},
            "ackLevel=memory\nslaveAckTimeoutInMills=5\n",
            (
                "server.ini:11: [topic=test] slaveAckTimeoutInMills: has no effect: a put to this topic waits for "
                "no slave (ackLevel=memory); set ackLevel to slave or slave_disk, or remove the key"
            ),
        ),
    ],
)
def test_keys_that_would_have_no_effect(system: dict[str, str], own: str, problem: str) -> None:
    assert problems_of(text(system, f"[topic=test]\n{own}")) == (problem,)


def test_bytes_that_are_no_text() -> None:
    (problem,) = problems_of(b"[system]\nx=\xff\xff")
    assert problem.startswith("server.ini:2: is neither UTF-8 nor GBK")


_KEYS = sorted({*SYSTEM_KEYS, *TOPIC_KEYS, *ZOOKEEPER_KEYS, "group.g", "group.", "nope", ""})
_VALUES = st.one_of(
    st.text(max_size=12),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["true", "", "1024*1024", "delete,1", "0 0 1 ? * 1", "a:1", "\\", "\\u0000", "~", "\0", "[::1]"]
    ),
)
_LINES = st.one_of(
    st.tuples(st.sampled_from(_KEYS), _VALUES).map("=".join),
    st.sampled_from(["[system]", "[zookeeper]", "[topic=a]", "[topic=*]", "[topic=]", "[", "# x", "a\\"]),
    st.text(max_size=20),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(_LINES, max_size=15), st.booleans())
def test_any_text_gives_a_configuration_or_problems(complete: bool, lines: list[str], lenient: bool) -> None:
    content = (text() if complete else "") + "\n".join(lines)
    try:
        found = parse(content, lenient=lenient)
    except ConfigError as error:
        said = error.problems
        assert said
        assert all(problem.startswith("server.ini:") for problem in said)
        assert all(problem.isprintable() for problem in said)
    else:
        assert found.topics
        assert found.source_bytes == content.encode()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_configuration_or_problems(data: bytes) -> None:
    try:
        parse(text().encode() + data)
    except ConfigError as error:
        said = error.problems
        assert said


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; import metaserver.config;"
        "sys.exit(' '.join({'croniter', 'trio', 'dateutil', 'asyncio', 'tomli'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
