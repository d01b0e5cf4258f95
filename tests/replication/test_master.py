"""A slave without ``masterAddress`` finds its master in the registry, and follows it wherever it goes."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import attrs
import pytest
import trio
from kazoo.client import KazooClient

from metaserver.errors import ConnectionLostError
from metaserver.registry.nodes import Node
from metaserver.registry.paths import Layout
from metaserver.replication.master import RegisteredPlace
from tests.registry_zookeeper.zookeeper_server import ZooKeeperServer, require_zookeeper
from tests.support import NO_REGISTRY, BrokerProcess, eventually, put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

TOPICS = "[topic=orders]\nnumPartitions=2\n[topic=wild*]\n"


@attrs.define(eq=False)
class Stage:
    """A registry, and brokers that use it and end with the test."""

    base: Path
    registry: str
    brokers: list[BrokerProcess] = attrs.Factory(list)

    @property
    def section(self) -> str:
        return (
            f"[zookeeper]\nzk.zkConnect={self.registry}\nzk.zkSyncTimeMs=0\nzk.zkSessionTimeoutMs=5000\n"
            if self.registry
            else "[zookeeper]\nregistryPort=0\nzk.zkSyncTimeMs=0\n"
        )

    def broker(self, name: str, **how: object) -> BrokerProcess:
        broker = BrokerProcess(self.base / name, **{"topics": TOPICS, "registry": self.section, **how})  # type: ignore[arg-type]
        broker.base.mkdir(exist_ok=True)
        self.brokers.append(broker)
        return broker

    def slave(self, slave_id: int = 0, **keys: object) -> BrokerProcess:
        """One that is told of no master."""
        return self.broker(
            f"slave{slave_id}", slave_of=0, slave_id=slave_id, slave_settings={"masterAddress": None, **keys}
        )

    def end(self) -> None:
        for broker in reversed(self.brokers):
            broker.make_sure_it_is_gone()
        for broker in self.brokers:
            assert not (broker.base / "output").exists() or "Traceback" not in broker.log


@contextmanager
def zookeeper(base: Path) -> Iterator[str]:
    require_zookeeper()
    server = ZooKeeperServer(base / "zookeeper")
    try:
        server.start()
        yield server.address
    finally:
        server.kill()


@contextmanager
def embedded(base: Path) -> Iterator[str]:
    """In a broker of another number."""
    host = BrokerProcess(base / "host", settings={"brokerId": 1})
    try:
        host.start()
        yield f"127.0.0.1:{host.registry_port}"
    finally:
        host.make_sure_it_is_gone()


@pytest.fixture(params=[zookeeper, embedded], ids=["zookeeper", "embedded"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with request.param(tmp_path) as registry:
        stage = Stage(tmp_path, registry)
        try:
            yield stage
        finally:
            stage.end()


@contextmanager
def spying(registry: str) -> Iterator[Any]:
    client = KazooClient(registry, timeout=10.0)
    client.start(10)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def fill(master: BrokerProcess, topic: str, count: int) -> None:
    with master.connect() as wire:
        for number in range(count):
            assert (
                wire.ask(put(topic, b"message %d" % number, number, number % 2 * (topic == "orders"))).status
                == 200
            )


def files(broker: BrokerProcess) -> dict[str, bytes]:
    """Every segment that holds something, but the registry's."""
    found = broker.data.glob("*/*.meta")
    contents = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in found
        if not path.parent.name.startswith("__")
    }
    return {name: content for name, content in contents.items() if content}


def is_content(broker: BrokerProcess) -> bool:
    return not broker.status()["problems"]


def says(broker: BrokerProcess, text: str) -> bool:
    return any(text in problem for problem in broker.status()["problems"])


def test_slaves_follow_a_master_that_comes_goes_and_moves(stage: Stage) -> None:
    master, slaves = stage.broker("master"), [stage.slave(0), stage.slave(7)]
    # Nobody is there yet.
    for slave in slaves:
        slave.start()
        eventually(partial(says, slave, "has no master of broker 0"), "it says so")
        assert slave.ask(put("orders", b"x", 1)).text.endswith("its master (its address is not known yet)")

    # It appears.
    master.start()
    fill(master, "orders", 50)
    fill(master, "wilderness", 5)
    eventually(lambda: all(files(slave) == files(master) != {} for slave in slaves), "two equal copies")
    for slave in slaves:
        eventually(partial(is_content, slave), "no problem is left")
        assert follows(slave, master.port)
        assert f"its master 127.0.0.1:{master.port}" in slave.ask(put("orders", b"x", 1)).text

    # It disappears, and what was copied is served.
    before = master.read_all("orders")
    assert master.stop() == 0
    for slave in slaves:
        eventually(partial(says, slave, "has no master of broker 0"), "it says so again")
        assert slave.read_all("orders") == before
        assert slave.status()["replication"]["connected"] is False

    # It is back, at another address.
    first_port = master.port
    master.start()
    assert master.port != first_port
    fill(master, "orders", 50)
    eventually(lambda: all(files(slave) == files(master) for slave in slaves), "two equal copies again")
    assert [slave.stop() for slave in slaves] == [0, 0]


def test_a_master_that_moves_while_its_old_address_still_answers(stage: Stage) -> None:
    """The registry's word counts, not that a connection works."""
    # One that does not register: it would put its own address back.
    master, slave = stage.broker("master", registry=NO_REGISTRY), stage.slave()
    master.start()
    slave.start()
    node = "/meta/brokers/ids/0/master"
    with spying(stage.registry) as spy, Forwarder(master.port) as forwarder:
        for port, name in ((master.port, "orders"), (forwarder.port, "wilderness")):
            if spy.exists(node):
                spy.set(node, b"meta://127.0.0.1:%d" % port)
            else:
                spy.create(node, b"meta://127.0.0.1:%d" % port, makepath=True)
            eventually(partial(follows, slave, port), "it connects to the new address")
            fill(master, name, 10)
            eventually(lambda: files(slave) == files(master) != {}, "the copy")
        # It leaves the registry, as a master seems to whose session has ended, and still answers.
        spy.delete(node)
        eventually(partial(says, slave, "has no master of broker 0"), "it says so")
        fill(master, "orders", 10)
        eventually(lambda: files(slave) == files(master), "the copy goes on")
        assert follows(slave, forwarder.port)


def follows(slave: BrokerProcess, port: int) -> bool:
    replication = slave.status()["replication"]
    return (replication["master"], replication["connected"]) == (f"127.0.0.1:{port}", True)


class Forwarder:
    """Another address of a broker: ``socat`` in thirty lines, in a thread with a loop of its own."""

    def __init__(self, target: int) -> None:
        import threading

        self._target = target
        self._listening = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._token, self._scope = trio.lowlevel.current_trio_token(), trio.CancelScope()
        with self._scope:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            self._listening.set()
            await trio.serve_listeners(self._forward, [listener])

    async def _forward(self, near: trio.SocketStream) -> None:
        async with (
            await trio.open_tcp_stream("127.0.0.1", self._target) as far,
            trio.open_nursery() as nursery,
        ):

            async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                try:
                    async for data in source:
                        await sink.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)


def test_the_registry_that_the_master_itself_hosts(tmp_path: Path) -> None:
    """It goes with the master and comes back with it; meanwhile its last word stands."""
    stage = Stage(tmp_path, "")
    try:
        master = stage.broker("master")
        master.start()
        registry = f"127.0.0.1:{master.registry_port}"
        master.configure({}, f"{TOPICS}[zookeeper]\nregistryPort={master.registry_port}\nzk.zkSyncTimeMs=0\n")
        slave = stage.slave(registryAddress=registry)
        slave.start()
        fill(master, "orders", 20)
        eventually(lambda: files(slave) == files(master) != {}, "the copy")
        slave.wait_registered()
        master.kill()
        eventually(lambda: says(slave, "the registry cannot be read"), "it says that the registry is away")
        assert len(slave.read_all("orders")) == 10
        first_port = master.port
        master.start()
        assert master.port != first_port
        fill(master, "orders", 20)
        eventually(lambda: files(slave) == files(master), "the copy from the new address")
        eventually(lambda: slave.status()["problems"] == [], "no problem is left")
    finally:
        stage.end()


def test_itself_and_another_broker_are_no_master(tmp_path: Path) -> None:
    with embedded(tmp_path) as registry:
        stage = Stage(tmp_path, registry)
        try:
            slave, other = stage.slave(), stage.broker("other", settings={"brokerId": 2})
            slave.start()
            other.start()
            with spying(registry) as spy:
                spy.create("/meta/brokers/ids/0/master", b"meta://127.0.0.1:%d" % slave.port, makepath=True)
                eventually(lambda: says(slave, "names this slave itself"), "it knows itself")
                spy.set("/meta/brokers/ids/0/master", b"nowhere")
                eventually(lambda: says(slave, "b'nowhere', which is no address"), "it knows an address")
                spy.set("/meta/brokers/ids/0/master", b"meta://127.0.0.1:%d" % other.port)
                eventually(
                    lambda: says(slave, f"the broker at 127.0.0.1:{other.port} has brokerId 2"),
                    "it looks who answers",
                )
                assert slave.status()["replication"]["partitions"] == 0
            told = stage.slave(1, masterAddress=f"127.0.0.1:{other.port}")
            told.start()
            eventually(
                lambda: says(told, "has brokerId 2, and this slave 0"), "also where it was told to look"
            )
            assert told.status()["replication"]["partitions"] == 0
        finally:
            stage.end()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "masterAddress is missing; write masterAddress=HOST:PORT of the master, or registryAddress"),
        ({"masterAddress": "localhost:9", "serverPort": 9}, "masterAddress is the slave's own address"),
    ],
)
def test_a_slave_that_cannot_know_its_master_does_not_start(
    tmp_path: Path, keys: dict[str, Any], problem: str
) -> None:
    stage = Stage(tmp_path, "")
    try:
        with pytest.raises(AssertionError, match=problem):
            stage.slave(0, **keys).start()
    finally:
        stage.end()


# Without processes.


@attrs.define(eq=False)
class FakeNodes:
    """A registry as a :class:`RegisteredPlace` reads it."""

    on_change: Callable[[], None]
    nodes: dict[str, bytes] = attrs.Factory(dict)
    is_away: bool = False
    looks: int = 0

    async def children(self, paths: Iterable[str], *, is_watched: bool) -> dict[str, list[str] | None]:
        assert is_watched
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise ConnectionLostError("fake", "away")
        self.looks += 1
        return {
            path: sorted(
                {
                    name.removeprefix(f"{path}/").split("/")[0]
                    for name in self.nodes
                    if name.startswith(f"{path}/")
                }
            )
            for path in paths
        }

    async def read(self, paths: Iterable[str], *, is_watched: bool) -> dict[str, Node | None]:
        assert is_watched
        await trio.lowlevel.checkpoint()
        return {path: Node(self.nodes[path], 0, 1) if path in self.nodes else None for path in paths}

    async def revive(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Watched:
    place: RegisteredPlace
    nodes: FakeNodes
    told: int = 0

    def view(self) -> tuple[object, ...]:
        return self.place.address, self.place.config_checksum, self.place.problem

    def count(self) -> None:
        self.told += 1

    async def change(self, **nodes: str | None) -> None:
        """Nodes below the broker, and of topics; returns when the place has looked."""
        for name, data in nodes.items():
            path = f"/meta/brokers/topics-sub/{name}/0-m" if name.isupper() else f"/meta/brokers/ids/0/{name}"
            self.nodes.nodes.pop(path, None)
            if data is not None:
                self.nodes.nodes[path] = data.encode()
        await self.look()

    async def look(self) -> None:
        # Beyond the shortest time from one look to the next.
        await trio.sleep(0.05)
        self.nodes.on_change()
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def watched(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Watched]:
    made: list[FakeNodes] = []

    async def open_nodes(on_change: Callable[[], None]) -> FakeNodes:
        await trio.lowlevel.checkpoint()
        made.append(FakeNodes(on_change))
        return made[0]

    own = frozenset({("me", 1)})
    place = RegisteredPlace(0, own, Layout("/meta"), open_nodes)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.run)
        await trio.testing.wait_all_tasks_blocked()
        found = Watched(place, made[0])
        place.on_change = found.count
        yield found
        nursery.cancel_scope.cancel()


async def test_what_is_told(watched: Watched, autojump_clock: trio.testing.MockClock) -> None:
    waiting = "the registry has no master of broker 0; waiting for one"
    assert watched.view() == (None, None, waiting)
    await watched.change(master="meta://[::1]:5")
    assert watched.view() == (("::1", 5), None, "")
    for change in ({"master_config_checksum": "12"}, {"T": "x"}, {"master": "meta://h:5"}):
        told = watched.told
        await watched.change(**change)
        assert watched.told > told, change
    assert watched.view() == (("h", 5), 12, "")

    # Nothing that concerns the slave: another slave.
    told = watched.told
    await watched.change(slave3="meta://h:6")
    assert watched.told == told
    await watched.change(master="meta://me:1")
    assert watched.view()[0] is None
    await watched.change(master=None)
    assert watched.view() == (None, 12, waiting)


async def test_the_last_word_stands_while_the_registry_is_away(
    watched: Watched, autojump_clock: trio.testing.MockClock
) -> None:
    await watched.change(master="meta://h:5")
    watched.nodes.is_away = True
    await watched.look()
    away = "the registry cannot be read: no connection to ZooKeeper fake: away"
    assert watched.view() == (("h", 5), None, away)
    watched.nodes.is_away = False
    # It looks again by itself.
    await trio.sleep(5)
    assert watched.view() == (("h", 5), None, "")


async def test_a_change_that_no_watch_told_of_is_found(
    watched: Watched, autojump_clock: trio.testing.MockClock
) -> None:
    watched.nodes.nodes["/meta/brokers/ids/0/master"] = b"meta://h:5"
    await trio.sleep(31)
    assert watched.place.address == ("h", 5)
