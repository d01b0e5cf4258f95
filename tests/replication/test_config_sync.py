"""``autoSyncMasterConfig``: with real processes, and the decisions alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import attrs
import pytest
import trio

from metaserver.config import parse_server_config
from metaserver.config.merge import stamp, stamped_checksum
from metaserver.control.client import call
from metaserver.errors import BrokerUnreachableError, ConfigError
from metaserver.protocol import Result
from metaserver.replication.config_sync import ConfigSync
from metaserver.replication.master import MasterFacts
from tests.support import (
    NO_REGISTRY,
    WAIT_SECONDS_MAX,
    ZOOKEEPER_SECTION,
    BrokerProcess,
    eventually,
    put,
)
from tools.torture.nodes import place_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaserver.config import ServerConfig

OWN = "; the slave's own note\n[topic=orders]\n; how many\nnumPartitions=1\n\n[topic=gone]\n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., BrokerProcess]]:
    """Brokers without a registry that end with the test."""
    brokers: list[BrokerProcess] = []

    def one(name: str, **how: object) -> BrokerProcess:
        broker = BrokerProcess(tmp_path / name, **{"registry": NO_REGISTRY, **how})  # type: ignore[arg-type]
        broker.base.mkdir()
        brokers.append(broker)
        return broker

    yield one
    for broker in reversed(brokers):
        broker.make_sure_it_is_gone()
    for broker in brokers:
        assert "Traceback" not in broker.log


def reload(broker: BrokerProcess) -> dict[str, Any]:
    return call(broker.control_socket, "reload", WAIT_SECONDS_MAX)


def sync(slave: BrokerProcess) -> dict[str, Any]:
    found: dict[str, Any] = slave.status()["config_sync"]
    return found


def is_in_step(slave: BrokerProcess, master: BrokerProcess) -> bool:
    found, checksum = sync(slave), master.status()["config_checksum"]
    return found["drift"] is False and found["merged_checksum"] == found["master_checksum"] == checksum


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def segments(broker: BrokerProcess, name: str) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (broker.data / name).glob("*.meta")}
    return {segment: content for segment, content in found.items() if content}


def follows(make: Callable[..., BrokerProcess], master: BrokerProcess, **how: object) -> BrokerProcess:
    keys = {"autoSyncMasterConfig": "true"}
    return make("slave", **{"topics": OWN, "slave_of": master.port, "slave_settings": keys, **how})


def test_a_slave_follows_its_masters_configuration(make: Callable[..., BrokerProcess]) -> None:
    settings = {"maxSegmentSize": 2000, "deletePolicy": "delete,24"}
    master = make("master", settings=settings, topics="[topic=orders]\nnumPartitions=2\n")
    master.start()
    slave = follows(make, master)
    slave.start()

    # The first start: before anything was built on its own file, so that all of [system] counts as well.
    eventually(lambda: is_in_step(slave, master), "it knows that it is in step")
    assert sync(slave)["needs_restart"] == []
    assert "Reloading topics" not in slave.log
    text = slave.server_file.read_text(encoding="utf-8")
    assert stamped_checksum(text) == master.status()["config_checksum"]
    assert "; the slave's own note\n[topic=orders]\n; how many\nnumPartitions=2\n" in text
    assert "gone" not in text
    assert "maxSegmentSize=2000" in text
    assert "[topic=gone]" in slave.server_file.with_name("server.ini.1").read_text(encoding="utf-8")
    with master.connect() as wire:
        for number in range(50):
            assert wire.ask(put("orders", b"x" * 200, number, partition=1)).status == 200
    eventually(lambda: segments(slave, "orders-1") == segments(master, "orders-1"), "equal segments")
    assert len(segments(slave, "orders-1")) > 3

    # A reload.
    edit(master.server_file, "[topic=orders]", "[topic=added]\nstat=true\n\n[topic=orders]")
    edit(master.server_file, "stat=true", "stat=false")
    reload(master)
    eventually(lambda: is_in_step(slave, master), "the slave has merged and loaded it")
    assert "topics 2" in slave.statistics()
    assert sync(slave)["needs_restart"] == ["stat"]
    assert not slave.status()["problems"]
    assert master.ask(put("added", b"hello", 1)).status == 200
    eventually(lambda: segments(slave, "added-0") == segments(master, "added-0") != {}, "the new topic")

    # A restart of the slave: what belongs to its machine is its own, what waited has come.
    port, http_port, data = slave.port, slave.status()["http_port"], slave.status()["data_path"]
    edit(slave.server_file, "serverPort=0", f"serverPort={port}")
    edit(slave.server_file, "dashboardHttpPort=0", f"dashboardHttpPort={http_port}")
    before = slave.server_file.read_bytes()
    assert slave.stop() == 0
    slave.start()
    assert (slave.port, slave.status()["http_port"], slave.status()["data_path"]) == (port, http_port, data)
    assert slave.server_file.read_bytes() == before
    eventually(lambda: is_in_step(slave, master), "in step after the restart")
    assert sync(slave)["needs_restart"] == []

    # The master comes back with another file.
    assert master.stop() == 0
    edit(master.server_file, "[topic=added]", "[topic=later]")
    restart_at(master, slave)
    eventually(lambda: is_in_step(slave, master), "after a restart of the master")
    assert "[topic=later]" in slave.server_file.read_text(encoding="utf-8")
    assert slave.server_file.with_name("server.ini.3").exists()


def restart_at(master: BrokerProcess, slave: BrokerProcess) -> None:
    """On the port that the slave knows."""
    edit(master.server_file, "serverPort=0", f"serverPort={slave.slave_of}")
    master.start()


def test_a_merge_that_cannot_be_used_changes_nothing(make: Callable[..., BrokerProcess]) -> None:
    """A master of a later version, say, with a key that this slave does not know."""
    master = make("master", topics="[topic=orders]\n[topic=gone]\n", options=("--lenient",))
    master.start()
    slave = follows(make, master)
    slave.start()
    before = slave.server_file.read_bytes()
    edit(master.server_file, "[topic=orders]", "futureKey=1\n[topic=orders]\n[topic=added]")
    edit(master.server_file, "[topic=gone]\n", "")
    reload(master)
    eventually(
        lambda: any("is refused, the old one stays" in problem for problem in slave.status()["problems"]),
        "it says so",
    )
    found = sync(slave)
    assert "futureKey: is no known key" in found["problem"]
    assert found["drift"] is True
    assert found["master_checksum"] == master.status()["config_checksum"] != found["merged_checksum"]
    assert slave.server_file.read_bytes() == before
    assert slave.log.count("is refused, the old one stays") == 1

    edit(master.server_file, "futureKey=1\n", "")
    reload(master)
    eventually(lambda: is_in_step(slave, master), "a file that can be used is taken")
    assert slave.status()["problems"] == []


def test_two_slaves_of_one_master(make: Callable[..., BrokerProcess]) -> None:
    """Which the master shows, by the registry that it hosts."""
    master = make("master", topics="[topic=orders]\n", registry=ZOOKEEPER_SECTION)
    master.start()
    keys = {"autoSyncMasterConfig": "true"}
    slaves = [
        make(
            f"slave{number}",
            topics=OWN,
            slave_of=master.port,
            slave_id=number,
            slave_settings=keys,
            registry=ZOOKEEPER_SECTION,
        )
        for number in range(2)
    ]
    for slave in slaves:
        slave.start()
    expected = [
        {
            "slave_id": number,
            "address": f"127.0.0.1:{slave.port}",
            "merged_checksum": master.status()["config_checksum"],
            "drift": False,
        }
        for number, slave in enumerate(slaves)
    ]
    eventually(lambda: master.status()["registered_slaves"] == expected, "the master knows them")
    # One that does not take what the master has next.
    slaves[1].server_file.write_text("[nothing", encoding="utf-8")
    edit(master.server_file, "[topic=orders]", "[topic=orders]\n[topic=more]")
    reload(master)
    for name in ("orders", "more"):
        assert master.ask(put(name, b"x" * 100, 1)).status == 200
    eventually(partial(is_in_step, slaves[0], master), "the first is in step")
    eventually(
        lambda: [slave["drift"] for slave in master.status()["registered_slaves"]] == [False, True],
        "the master knows it",
    )
    for slave in slaves:
        for name in ("orders-0", "more-0"):
            eventually(partial(has_copied, slave, master, name), "both have copied it")


def has_copied(slave: BrokerProcess, master: BrokerProcess, name: str) -> bool:
    return segments(slave, name) == segments(master, name) != {}


def test_without_the_key_the_drift_is_only_told(make: Callable[..., BrokerProcess]) -> None:
    master = make("master", topics="[topic=orders]\nnumPartitions=2\n")
    master.start()
    slave = follows(make, master, slave_settings={})
    slave.start()
    before = slave.server_file.read_bytes()
    eventually(lambda: sync(slave)["drift"] is True, "the drift is seen")
    assert (sync(slave)["enabled"], sync(slave)["merged_checksum"]) == (False, None)
    # Brought to the same by hand.
    edit(slave.server_file, "numPartitions=1\n\n[topic=gone]", "numPartitions=2\n")
    reload(slave)
    eventually(lambda: sync(slave)["drift"] is False, "there is none any more")
    assert before != slave.server_file.read_bytes()
    assert not slave.server_file.with_name("server.ini.1").exists()
    assert slave.status()["problems"] == []


def test_master_and_slave_with_one_file(tmp_path: Path) -> None:
    """As shipped. The file is the master's: the slave loads it after him, and never writes it."""
    with place_at(tmp_path / "place", ["[topic=orders]"]) as place:
        with place.slave_file.open("a", encoding="utf-8") as file:
            file.write("autoSyncMasterConfig=true\n")
        place.master.start()
        place.slave.start()
        eventually(lambda: place.slave.ask("status")["config_sync"]["drift"] is False, "in step")
        edit(place.server_file, "[topic=orders]", "[topic=orders]\n\n[topic=added]")
        edited = place.server_file.read_bytes()
        # Not loaded by the master yet: a slave that starts now must not undo it.
        place.slave.stop()
        place.slave.start()
        assert place.server_file.read_bytes() == edited
        eventually(
            lambda: "waiting for its reload" in place.slave.ask("status")["config_sync"]["problem"],
            "it waits",
        )
        assert place.master.ask("reload")["topics_added"] == ["added"]
        eventually(
            lambda: place.slave.ask("status")["config_checksum"] == crc32(edited), "the slave has loaded it"
        )
        eventually(lambda: place.slave.ask("status")["config_sync"]["drift"] is False, "in step again")
        assert place.server_file.read_bytes() == edited
        assert not list(place.server_file.parent.glob("server.ini.*"))


# The decisions alone.

SYSTEM = (
    "[system]\nbrokerId=0\nnumPartitions=1\nunflushThreshold=0\nunflushInterval=1\nmaxSegmentSize=1024\n"
    "maxTransferSize=1024\ndataPath=/d\n"
)
MINE = f"{SYSTEM}serverPort=1\n[topic=a]\n"
THEIRS = f"{SYSTEM}serverPort=2\n[topic=a]\n[topic=b]\n"
MERGED = f"{SYSTEM}serverPort=1\n[topic=a]\n\n[topic=b]\n"


def parsed(data: bytes) -> ServerConfig:
    return parse_server_config(data, source="server.ini", base_directory=Path("/"))


@attrs.define(eq=False)
class FakeLocal:
    data: bytes = MINE.encode()
    running: ServerConfig = attrs.field(
        default=attrs.Factory(lambda self: parsed(self.data), takes_self=True)
    )
    is_shared: bool = False
    is_lenient: bool = False
    failure: Exception | None = None
    kept: list[bool] = attrs.Factory(list)

    async def read(self) -> bytes:
        return self.data

    async def check(self, data: bytes) -> None:
        parsed(data)

    async def replace(self, data: bytes, *, keep_old: bool) -> None:
        if self.failure is not None:
            raise self.failure
        self.data = data
        self.kept.append(keep_old)

    async def reload(self) -> tuple[str, ...]:
        self.running = parsed(self.data)
        return ("stat",)

    async def is_masters(self) -> bool:
        return self.is_shared


@attrs.define
class FakeLink:
    data: bytes = THEIRS.encode()
    is_broken: bool = False
    requests: list[bytes] = attrs.Factory(list)

    async def request(self, encode: Callable[[int], bytes], timeout_seconds: float) -> Result:
        self.requests.append(encode(1))
        if self.is_broken:
            raise BrokerUnreachableError("h:1", "gone")
        return Result(200, "", 1, self.data)


@attrs.define
class Case:
    local: FakeLocal = attrs.Factory(FakeLocal)
    link: FakeLink = attrs.Factory(FakeLink)
    is_enabled: bool = True
    sync: ConfigSync = attrs.field(
        default=attrs.Factory(lambda self: ConfigSync(self.local, self.is_enabled), takes_self=True)
    )

    async def look(self, checksum: int | None = None, *, is_java: bool = False) -> None:
        facts = MasterFacts(0, crc32(self.link.data) if checksum is None else checksum, is_java)
        await self.sync.look(self.link, facts)  # type: ignore[arg-type]


async def test_a_look_merges_replaces_and_loads() -> None:
    case = Case()
    await case.look()
    checksum = crc32(THEIRS.encode())
    assert case.local.data == stamp(MERGED, checksum).encode()
    assert case.local.running.checksum == crc32(case.local.data)
    assert case.local.kept == [True]
    report = case.sync.report()
    assert (report.master_checksum, report.merged_checksum, report.has_drift) == (checksum, checksum, False)
    assert (report.problem, report.needs_restart) == ("", ("stat",))
    assert case.link.requests == [b"stats config 1\r\n"]
    await case.look()
    assert case.local.kept == [True]


async def test_what_differs_only_in_what_is_the_masters_own_is_no_version_to_keep() -> None:
    case = Case()
    await case.look()
    case.link.data = THEIRS.replace("serverPort=2", "serverPort=3").encode()
    await case.look()
    assert case.local.kept == [True, False]
    assert case.sync.report().merged_checksum == crc32(case.link.data)


@pytest.mark.parametrize("is_lenient", [True, False])
async def test_a_lenient_node_reads_the_masters_file_leniently(is_lenient: bool) -> None:
    text = THEIRS.replace("[system]\n", "[system]\nappClassPath=C:\\data\n")
    case = Case(FakeLocal(is_lenient=is_lenient), FakeLink(text.encode()))
    await case.look()
    assert ("is no escape" in case.sync.problem) is not is_lenient
    assert case.sync.is_refused is not is_lenient


async def test_a_file_that_was_not_loaded_by_the_master_is_not_taken() -> None:
    case = Case()
    await case.look(checksum=7)
    assert case.local.data == MINE.encode()
    assert "not loaded by the master yet" in case.sync.problem
    assert not case.sync.is_refused
    await case.look()
    assert case.sync.problem == ""
    assert case.local.kept == [True]


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (OSError(28, "No space left on device"), "server.ini cannot be replaced: "),
        (ConfigError(("server.ini: no",)), "is refused, the old one stays: server.ini: no"),
    ],
)
async def test_what_fails_is_said_and_changes_nothing(failure: Exception, text: str) -> None:
    case = Case(FakeLocal(failure=failure))
    await case.look()
    assert text in case.sync.problem
    assert case.local.data == MINE.encode()
    assert case.sync.is_refused == isinstance(failure, ConfigError)
    case.local.failure = None
    await case.look()
    assert (case.sync.problem, case.sync.is_refused) == ("", False)


async def test_the_connection_breaks() -> None:
    case = Case(link=FakeLink(is_broken=True))
    await case.look()
    assert "gone" in case.sync.problem
    assert case.sync.report().has_drift is None


async def test_a_file_of_the_masters_is_not_written() -> None:
    case = Case(FakeLocal(is_shared=True))
    await case.look()
    assert "waiting for its reload" in case.sync.problem
    assert case.local.data == MINE.encode()


async def test_an_equal_file_is_only_loaded() -> None:
    case = Case(FakeLocal(data=THEIRS.encode(), running=parsed(MINE.encode())))
    await case.look()
    assert case.local.kept == []
    assert case.local.running.checksum == crc32(THEIRS.encode())
    assert case.sync.report().has_drift is False


async def test_gbk_stays_gbk() -> None:
    case = Case(FakeLocal(data=f"; 从\n{MINE}".encode("gbk")), FakeLink(f"{THEIRS}; 主\n".encode("gbk")))
    await case.look(is_java=True)
    assert "; 从" in case.local.data.decode("gbk")
    assert "; 主" in case.local.data.decode("gbk")


@pytest.mark.parametrize(("data", "has_drift"), [(MINE, True), (MERGED, False), (THEIRS, False)])
async def test_switched_off_it_only_tells(data: str, has_drift: bool) -> None:
    case = Case(FakeLocal(data=data.encode()), is_enabled=False)
    await case.look()
    assert case.local.data == data.encode()
    assert case.sync.report().has_drift is has_drift
    assert case.sync.problem == ""


async def test_it_looks_when_one_side_runs_something_else(autojump_clock: trio.testing.MockClock) -> None:
    case = Case()

    def tell(checksum: int | None) -> None:
        case.sync.told(case.link, MasterFacts(0, checksum, is_java=False))  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(case.sync.run)
        for _ in range(3):
            tell(crc32(THEIRS.encode()))
            await trio.sleep(1)
        assert len(case.link.requests) == 1
        # Somebody has edited and loaded the slave's.
        case.local.data = MINE.encode()
        await case.local.reload()
        tell(crc32(THEIRS.encode()))
        await trio.sleep(1)
        assert len(case.link.requests) == 2
        assert case.sync.report().has_drift is False
        # What cannot be finished is tried again after a while.
        for _ in range(8):
            tell(7)
            await trio.sleep(1)
        assert len(case.link.requests) == 4
        await trio.sleep(10)
        count = len(case.link.requests)
        # A master that says nothing of its configuration is not asked for it.
        tell(None)
        await trio.sleep(10)
        assert len(case.link.requests) == count
        nursery.cancel_scope.cancel()
