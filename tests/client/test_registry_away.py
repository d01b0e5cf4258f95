"""A real ZooKeeper that goes away, forgets, or expires a session, while a producer and a group work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from metaserver.client import ConsumerOptions, ProducerOptions, SessionOptions, open_session
from tests.registry_zookeeper.zookeeper_server import ZooKeeperServer, require_zookeeper
from tests.support import BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from metaserver.client import Consumer, Producer

    Run = Callable[[Callable[[], Awaitable[None]]], None]

OPTIONS = ConsumerOptions(commit_interval_seconds=0.05)


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    require_zookeeper()
    server = ZooKeeperServer(tmp_path / "zookeeper")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def broker(tmp_path: Path, zookeeper: ZooKeeperServer) -> Iterator[BrokerProcess]:
    section = (
        f"[zookeeper]\nzk.zkConnect={zookeeper.address}\nzk.zkSyncTimeMs=0\nzk.zkSessionTimeoutMs=2000\n"
    )
    found = BrokerProcess(tmp_path / "broker", topics=f"[topic=test]\nnumPartitions=4\n\n{section}")
    found.start()
    found.wait_registered()
    yield found
    found.make_sure_it_is_gone()
    assert "Traceback" not in found.log


class Traffic:
    """A producer and a consumer that are asked now and then whether they still work."""

    def __init__(self, producer: Producer, consumer: Consumer) -> None:
        self.producer = producer
        self.consumer = consumer
        self.seen: list[int] = []
        self.sent = 0

    async def receive(self) -> None:
        async for message in self.consumer:
            self.seen.append(int(message.payload))

    async def works(self) -> None:
        """Twenty messages are taken, and arrive."""
        for _ in range(20):
            await self.producer.send("test", b"%d" % self.sent)
            self.sent += 1
        while len(set(self.seen)) < self.sent:
            await anyio.sleep(0.005)


async def stored(consumer: Consumer) -> None:
    """Returns when the registry has what was dealt with."""
    while any("no connection" in problem for problem in consumer.problems):
        await anyio.sleep(0.01)
    await consumer.commit()


def test_sending_and_receiving_go_on_without_the_registry(
    run: Run, zookeeper: ZooKeeperServer, broker: BrokerProcess
) -> None:
    async def test() -> None:
        session_options = SessionOptions(registry_timeout_seconds=2.0)
        async with (
            open_session(f"zookeeper://{zookeeper.address}", session_options) as session,
            session.producer(ProducerOptions()) as producer,
            session.consumer("group", "test", OPTIONS) as consumer,
            anyio.create_task_group() as tasks,
        ):
            traffic = Traffic(producer, consumer)
            tasks.start_soon(traffic.receive)
            await traffic.works()
            held = consumer.partitions
            await anyio.to_thread.run_sync(zookeeper.kill)
            while not consumer.problems:
                await anyio.sleep(0.01)
            await traffic.works()
            # Longer than the session would have lived.
            await anyio.sleep(2.5)
            await traffic.works()
            assert consumer.partitions == held
            await anyio.to_thread.run_sync(zookeeper.start)
            await stored(consumer)
            await traffic.works()
            assert len(traffic.seen) == traffic.sent
            tasks.cancel_scope.cancel()

    run(test)


def test_a_session_that_expires_is_followed_by_another(
    run: Run, zookeeper: ZooKeeperServer, broker: BrokerProcess
) -> None:
    async def test() -> None:
        session_options = SessionOptions(registry_timeout_seconds=2.0)
        async with (
            open_session(f"zookeeper://{zookeeper.address}", session_options) as session,
            session.producer() as producer,
            session.consumer("group", "test", OPTIONS) as consumer,
            anyio.create_task_group() as tasks,
        ):
            traffic = Traffic(producer, consumer)
            tasks.start_soon(traffic.receive)
            await traffic.works()
            discovery = session.network.discovery
            first = discovery.session
            assert discovery.nodes is not None
            identity = discovery.nodes._link._client.client_id
            with zookeeper.client(identity=identity):
                pass  # Whoever closes a session ends it for all.
            while discovery.session in (first, None):
                await anyio.sleep(0.01)
            await traffic.works()
            while consumer.problems or len(consumer.partitions) < 4:
                await anyio.sleep(0.01)
            with zookeeper.client() as spy:
                owners = spy.get_children("/meta/consumers/group/owners/test")
                assert len(owners) == 4
                found = {
                    spy.get(f"/meta/consumers/group/owners/test/{name}")[1].ephemeralOwner for name in owners
                }
            assert found == {discovery.session}
            assert len(traffic.seen) == traffic.sent
            tasks.cancel_scope.cancel()

    run(test)


def test_a_registry_that_comes_back_empty(
    run: Run, zookeeper: ZooKeeperServer, broker: BrokerProcess
) -> None:
    async def test() -> None:
        session_options = SessionOptions(registry_timeout_seconds=2.0)
        async with (
            open_session(f"zookeeper://{zookeeper.address}", session_options) as session,
            session.producer(ProducerOptions(timeout_seconds=50.0)) as producer,
            session.consumer("group", "test", OPTIONS) as consumer,
            anyio.create_task_group() as tasks,
        ):
            traffic = Traffic(producer, consumer)
            tasks.start_soon(traffic.receive)
            await traffic.works()
            await anyio.to_thread.run_sync(zookeeper.kill)
            zookeeper.forget_everything()
            await anyio.to_thread.run_sync(zookeeper.start)
            await traffic.works()
            while consumer.problems or len(consumer.partitions) < 4:
                await anyio.sleep(0.01)
            await traffic.works()
            tasks.cancel_scope.cancel()
        assert set(traffic.seen) == set(range(traffic.sent))

    run(test)
