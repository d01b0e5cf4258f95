from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import (
    ServerConfig,
    SlaveConfig,
    apply_slave,
    load_slave_config,
    parse_server_config,
    parse_slave_config,
)
from metaserver.errors import ConfigError

SERVER = """\
[system]
brokerId=7
numPartitions=1
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1073741824
maxTransferSize=1048576
dataPath=data/master
hostName=master.example.com
[topic=a]
[topic=b]
dataPath=/disk2
"""


def server() -> ServerConfig:
    return parse_server_config(SERVER, source="server.ini", base_directory=Path("/base"))


def parse(text: str | bytes, *, lenient: bool = False) -> SlaveConfig:
    return parse_slave_config(text, source="slave.properties", base_directory=Path("/base"), lenient=lenient)


def problems_of(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def test_defaults() -> None:
    found = parse("slaveId=3")
    assert found == SlaveConfig(path=Path("x"), slave_id=3, slave_group="meta-slave-group_3")
    assert (found.slave_max_delay_ms, found.auto_sync_master_config) == (500, False)
    assert found.slave_max_bytes_per_second == 0
    assert found.master_address is None
    assert found.data_path is None


def test_every_key() -> None:
    found = parse(
        "slaveId=1\nslaveGroup=g\nslaveMaxDelayInMills=5*100\nautoSyncMasterConfig=true\nslaveMaxBytesPerSecond=10*1024*1024\nmasterAddress=[::1]:8123\n"
        "registryAddress=zk1:2181, zk2/x\nserverPort 8124\ndashboardHttpPort: 8121\nhostName=slave\nbindAddress=::1\ndataPath=data/slave\n"
    )
    assert found == SlaveConfig(
        path=Path("x"),
        slave_id=1,
        slave_group="g",
        slave_max_delay_ms=500,
        auto_sync_master_config=True,
        slave_max_bytes_per_second=10 * 1024 * 1024,
        master_address=("::1", 8123),
        registry_address="zk1:2181,zk2/x",
        server_port=8124,
        dashboard_http_port=8121,
        host_name="slave",
        bind_address="::1",
        data_path=Path("/base/data/slave"),
    )


def test_every_problem_at_once() -> None:
    assert problems_of(
        "slaveid=0\nslaveMaxDelayInMills=0\nmasterAddress=8123\nautoSyncMasterConfig=yes\n"
    ) == (
        "slave.properties:1: slaveid: is no known key; do you mean 'slaveId'?",
        "slave.properties:2: slaveMaxDelayInMills: 0 is not in 1 to 2147483647",
        "slave.properties:3: masterAddress: '8123' is no HOST:PORT; 127.0.0.1:8123 or [::1]:8123 are",
        "slave.properties:4: autoSyncMasterConfig: 'yes' has the unknown word 'yes'; only true and false are known",
        "slave.properties: slaveId: is required and has no value; give it one",
    )
    assert problems_of("slaveId=-1") == ("slave.properties:1: slaveId: -1 is not in 0 to 2147483647",)


def test_lenient() -> None:
    assert parse("slaveId=0\nnope=1", lenient=True).slave_id == 0


def test_a_file_in_gbk(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.mkdir()
    path = conf / "async_slave.properties"
    path.write_bytes("# 从服务器\nslaveId=0\ndataPath=数据\n".encode("gbk"))
    found = load_slave_config(path)
    assert found.data_path == tmp_path / "数据"
    assert found.path == path


def test_what_the_slave_sets_wins() -> None:
    slave = parse(
        "slaveId=0\nserverPort=1\ndashboardHttpPort=2\nhostName=s\nbindAddress=::\ndataPath=/slave\n"
    )
    found = apply_slave(server(), slave)
    assert (found.server_port, found.dashboard_http_port, found.host_name, found.bind_address) == (
        1,
        2,
        "s",
        "::",
    )
    assert {found.data_path, found.data_log_path, found.defaults.data_path} == {Path("/slave")}
    assert [topic.data_path for topic in found.topics] == [Path("/slave"), Path("/slave")]
    topic = found.topic_config("b")
    assert topic is not None
    assert topic.data_path == Path("/slave")
    assert found.broker_id == 7


def test_the_slave_may_have_a_registry_of_its_own() -> None:
    found = apply_slave(server(), parse("slaveId=0\nregistryAddress=host:2181"))
    assert found.zookeeper == attrs.evolve(server().zookeeper, connect="host:2181")


def test_what_the_slave_leaves_out_stays() -> None:
    assert apply_slave(server(), parse("slaveId=0")) == server()


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.tuples(
                st.sampled_from(
                    ["slaveId", "slaveGroup", "masterAddress", "serverPort", "dataPath", "hostName"]
                ),
                st.one_of(st.text(max_size=8), st.sampled_from(["0", "a:1", "[::1]:2", "\\u0000"])),
            ).map("=".join),
        ),
        max_size=8,
    ).map("\n".join)
)
def test_any_text_gives_a_configuration_or_problems(text: str) -> None:
    try:
        found = parse("slaveId=0\n" + text)
    except ConfigError as error:
        said = error.problems
        assert said
        assert all(problem.startswith("slave.properties:") for problem in said)
    else:
        apply_slave(server(), found)
