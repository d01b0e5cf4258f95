"""The registrar on a real ZooKeeper: the reference's table node by node, and what must not break it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from metaserver.config import ZooKeeperConfig
from metaserver.registry.paths import Replica
from metaserver.registry.registrar import Registrar
from metaserver.registry.registration import Registration, TopicRegistration
from metaserver.registry.zookeeper import KazooTree
from tests.registry_zookeeper.zookeeper_server import Found, Kazoo, ZooKeeperServer, tree
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

WAIT_SECONDS_MAX = 20.0
SESSION_MS = 1000
SYNC_MS = 200
PAUSE_SECONDS_MAX = 0.3
"""Of the loop, on a busy machine; a wait for a silent server would be longer."""
ADDRESS = "meta://[::1]:8123"
OTHER_ADDRESS = b"meta://10.0.0.2:8123"


@attrs.define(eq=False)
class Broker:
    """As much of a broker as a registrar sees."""

    connect: str
    root: str
    replica: Replica = attrs.Factory(lambda: Replica(0))
    checksum: int = 4294967295
    topics: dict[str, TopicRegistration] = attrs.Factory(
        lambda: {
            "orders": TopicRegistration("orders", 4),
            "dyn*": TopicRegistration("dyn*", 2),
            "inbox": TopicRegistration("inbox", 1, accept_subscribe=False),
            "archive": TopicRegistration("archive", 1, accept_publish=False),
        }
    )
    registrar: Registrar = attrs.field(init=False)

    @registrar.default
    def _make_registrar(self) -> Registrar:
        config = ZooKeeperConfig(
            connect=self.connect,
            root=self.root,
            session_timeout_ms=SESSION_MS,
            connection_timeout_ms=SESSION_MS,
            sync_time_ms=SYNC_MS,
        )
        return Registrar.for_zookeeper(config, self.wanted, Random(1))

    def wanted(self) -> Registration:
        return Registration(self.replica, "::1", 8123, self.checksum, tuple(self.topics.values()))

    def set_topic(self, topic: TopicRegistration) -> None:
        self.topics[topic.topic] = topic
        self.registrar.wake()

    @property
    def session(self) -> int | None:
        return self.registrar.report().session

    def expected(self) -> dict[str, tuple[str, bool]]:
        """Data, and whether the node is ephemeral: section 1 of the reference."""
        number, who = self.replica.broker_id, str(self.replica)
        found = {f"/brokers/ids/{number}/slave{self.replica.slave_id}": (ADDRESS, True)}
        if self.replica.slave_id is None:
            found = {
                f"/brokers/ids/{number}": (ADDRESS, False),
                f"/brokers/ids/{number}/master": (ADDRESS, True),
                f"/brokers/ids/{number}/master_config_checksum": (str(self.checksum), True),
            }
        for name, topic in self.topics.items():
            data = f'{{"numParts":{topic.partition_count},"broker":"{who}"}}'
            found[f"/brokers/topics/{name}/{who}"] = (str(topic.partition_count), True)
            if topic.accept_publish:
                found[f"/brokers/topics-pub/{name}/{who}"] = (data, True)
            if topic.accept_subscribe:
                found[f"/brokers/topics-sub/{name}/{who}"] = (data, True)
        return found


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Broker]:
    """Registered, until the block ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.registrar.run)
        with trio.fail_after(WAIT_SECONDS_MAX):
            await broker.registrar.wait_registered()
        yield broker
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Look until it is so, with a bound."""
    deadline = trio.current_time() + WAIT_SECONDS_MAX
    while not condition():
        assert trio.current_time() < deadline, f"did not happen: {what}"
        await trio.sleep(0.01)


async def longest_pause(condition: Callable[[], bool]) -> float:
    """How long the loop stood still at most, until it is so."""
    longest = 0.0
    deadline = trio.current_time() + WAIT_SECONDS_MAX
    while not condition():
        began = trio.current_time()
        assert began < deadline
        await trio.sleep(0.01)
        longest = max(longest, trio.current_time() - began)
    return longest


def with_data(found: dict[str, Found]) -> dict[str, tuple[str, bool]]:
    """All but the parents, which are persistent and hold null."""
    return {
        path: (node.data or "", node.owner != 0) for path, node in found.items() if node.owner or node.data
    }


@pytest.mark.parametrize("replica", [Replica(0), Replica(12, 1)], ids=["master", "slave"])
async def test_the_layout_node_by_node(
    server: ZooKeeperServer, spy: Kazoo, root: str, replica: Replica
) -> None:
    async with running(Broker(server.address, root, replica)) as broker:
        found = tree(spy, root)
        assert with_data(found) == broker.expected()
        parents = {path: node for path, node in found.items() if path not in broker.expected()}
        assert {(node.data, node.owner) for node in parents.values()} == {(None, 0)}
        assert {node.owner for node in found.values()} == {0, broker.session}
        assert spy.get_acls(f"{root}/brokers/topics/orders/{replica}")[0][0].perms == 31
    assert not any(node.owner for node in tree(spy, root).values())


async def test_a_path_behind_the_servers_is_put_in_front(
    server: ZooKeeperServer, spy: Kazoo, root: str
) -> None:
    async with running(Broker(f"{server.address}{root}", "/inner")) as broker:
        assert with_data(tree(spy, f"{root}/inner")) == broker.expected()


async def test_changes_are_applied_and_nothing_else_is_touched(
    server: ZooKeeperServer, spy: Kazoo, root: str
) -> None:
    async with running(Broker(server.address, root)) as broker:
        before = tree(spy, root)
        broker.set_topic(TopicRegistration("dynamo", 2))
        broker.set_topic(TopicRegistration("inbox", 3))
        broker.checksum = 1
        await until(lambda: with_data(tree(spy, root)) == broker.expected(), "the new layout")
        after = tree(spy, root)
        made_again = {path for path in before if after[path].created != before[path].created}
        assert made_again == {"/brokers/topics/inbox/0-m", "/brokers/topics-pub/inbox/0-m"}


async def test_an_expired_session(server: ZooKeeperServer, spy: Kazoo, root: str) -> None:
    async with running(Broker(server.address, root)) as broker:
        old = broker.session
        kazoo_tree = broker.registrar._tree
        assert isinstance(kazoo_tree, KazooTree)
        with server.client(identity=kazoo_tree._link._client.client_id):
            pass  # Whoever closes a session by its number and password ends it.
        await until(lambda: broker.registrar.report().is_registered and broker.session != old, "registration")
        assert with_data(tree(spy, root)) == broker.expected()
        assert {node.owner for node in tree(spy, root).values()} == {0, broker.session}


async def test_a_server_that_falls_silent_does_not_stop_the_loop(server: ZooKeeperServer, root: str) -> None:
    async with running(Broker(server.address, root)) as broker:
        with server.frozen():
            broker.set_topic(TopicRegistration("new", 1))
            longest = await longest_pause(lambda: not broker.registrar.report().is_connected)
        assert longest < PAUSE_SECONDS_MAX
        assert not broker.registrar.report().is_registered
        await until(lambda: broker.registrar.report().is_registered, "registration")
        with server.client() as spy:
            assert with_data(tree(spy, root)) == broker.expected()


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_server_that_is_killed_and_returns(tmp_path: Path, forgets: bool) -> None:
    server = ZooKeeperServer(tmp_path)
    server.start()
    try:
        async with running(Broker(server.address, "/meta")) as broker:
            server.kill()
            await until(lambda: not broker.registrar.report().is_connected, "the loss of the connection")
            if forgets:
                server.forget_everything()
            broker.set_topic(TopicRegistration("new", 1))
            assert server.address in broker.registrar.report().problem
            await trio.to_thread.run_sync(server.start)
            await until(lambda: broker.registrar.report().is_registered, "registration")
            with server.client() as spy:
                assert with_data(tree(spy, "/meta")) == broker.expected()
    finally:
        server.kill()


async def test_a_server_that_is_down_at_the_start(server: ZooKeeperServer, tmp_path: Path) -> None:
    late = ZooKeeperServer(tmp_path, free_port())
    broker = Broker(late.address, "/meta")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.registrar.run)
            await until(lambda: late.address in broker.registrar.report().problem, "a report")
            assert not broker.registrar.report().is_registered
            late.launch()
            with trio.fail_after(WAIT_SECONDS_MAX):
                await broker.registrar.wait_registered()
            nursery.cancel_scope.cancel()
    finally:
        late.kill()


async def test_nodes_of_a_crashed_process_are_taken_over(
    server: ZooKeeperServer, spy: Kazoo, root: str
) -> None:
    broker = Broker(server.address, root)
    for path, (data, is_ephemeral) in broker.expected().items():
        if is_ephemeral:
            spy.create(f"{root}{path}", data.encode(), ephemeral=True, makepath=True)
    async with running(broker):
        found = tree(spy, root)
        assert with_data(found) == broker.expected()
        assert {node.owner for node in found.values()} == {0, broker.session}


async def test_another_broker_of_the_name_is_waited_for(
    server: ZooKeeperServer, spy: Kazoo, root: str
) -> None:
    broker = Broker(server.address, root)
    async with trio.open_nursery() as nursery:
        with server.client() as rival:
            rival.create(f"{root}/brokers/ids/0/master", OTHER_ADDRESS, ephemeral=True, makepath=True)
            before = tree(spy, root)
            nursery.start_soon(broker.registrar.run)
            await until(lambda: "10.0.0.2:8123" in broker.registrar.report().problem, "a report")
            assert tree(spy, root) == before
        with trio.fail_after(WAIT_SECONDS_MAX):
            await broker.registrar.wait_registered()
        assert with_data(tree(spy, root)) == broker.expected()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("has_slave", [False, True])
async def test_a_stop_in_the_references_order(
    server: ZooKeeperServer, spy: Kazoo, root: str, has_slave: bool
) -> None:
    broker = Broker(server.address, root, topics={"t": TopicRegistration("t", 1)})
    slave = f"{root}/brokers/ids/0/slave0"
    changed: list[str] = []
    async with running(broker):
        if has_slave:
            spy.create(slave, OTHER_ADDRESS, ephemeral=True)
        for path in broker.expected():
            spy.get(f"{root}{path}", watch=lambda event: changed.append(event.path.removeprefix(root)))
        began = trio.current_time()
        with trio.fail_after(WAIT_SECONDS_MAX):
            await broker.registrar.stop()
        assert trio.current_time() - began >= SYNC_MS / 1000
        await until(lambda: len(changed) == 6, "the news of six nodes")
        assert changed == [
            "/brokers/ids/0/master",
            "/brokers/ids/0/master_config_checksum",
            "/brokers/ids/0",
            "/brokers/topics/t/0-m",
            "/brokers/topics-pub/t/0-m",
            "/brokers/topics-sub/t/0-m",
        ]
    found = tree(spy, root)
    if has_slave:
        assert found["/brokers/ids/0"].data == ""
    else:
        assert "/brokers/ids/0" not in found
    assert "/brokers/topics/t" in found


async def test_a_stop_while_the_server_is_silent_ends(server: ZooKeeperServer, root: str) -> None:
    async with running(Broker(server.address, root)) as broker:
        ended = trio.Event()

        async def stop() -> None:
            await broker.registrar.stop()
            ended.set()

        with server.frozen(), trio.fail_after(WAIT_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                assert await longest_pause(ended.is_set) < PAUSE_SECONDS_MAX
        assert not broker.registrar.report().is_registered


async def test_one_server_of_several_is_enough(server: ZooKeeperServer, spy: Kazoo, root: str) -> None:
    connect = f"127.0.0.1:{free_port()},{server.address},127.0.0.1:{free_port()}"
    async with running(Broker(connect, root)) as broker:
        assert with_data(tree(spy, root)) == broker.expected()


async def test_a_kazoo_that_has_ended_is_replaced(
    server: ZooKeeperServer, spy: Kazoo, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaserver.registry.link._RENEW_SECONDS", 0.0)
    async with running(Broker(server.address, root)) as broker:
        old = broker.session
        kazoo_tree = broker.registrar._tree
        assert isinstance(kazoo_tree, KazooTree)
        await trio.to_thread.run_sync(kazoo_tree._link._client.stop)
        await until(lambda: broker.registrar.report().is_registered and broker.session != old, "registration")
        assert with_data(tree(spy, root)) == broker.expected()
