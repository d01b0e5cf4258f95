"""Transactions of the client against a real broker, on trio, on asyncio and from threads."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client import ProducerOptions, Transaction, Xid, open_session
from metaserver.client import blocking as plain
from metaserver.errors import (
    ConfigError,
    NoPartitionError,
    SendFailedError,
    SendRefusedError,
    TransactionFailedError,
    XaError,
)
from tests.support import BrokerProcess, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from metaserver.client.blocking.loop_thread import Backend

    Run = Callable[[Callable[[], Awaitable[None]]], None]

TOPICS = "[topic=orders]\nnumPartitions=3\n[topic=stock]\n"
TINY = ProducerOptions(timeout_seconds=2)
_numbers = count()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(
        tmp_path_factory.mktemp("broker"), topics=TOPICS, settings={"maxTransferSize": 65536}
    )
    try:
        process.start()
        process.wait_registered()
        yield process
    finally:
        process.make_sure_it_is_gone()


@pytest.fixture
def body() -> bytes:
    """A payload nobody else uses."""
    return b"message-%d" % next(_numbers)


def places(broker: BrokerProcess, body: bytes) -> list[tuple[str, int]]:
    """Where messages that begin so are to be read."""
    return [
        (topic, number)
        for topic, partitions in (("orders", 3), ("stock", 1))
        for number in range(partitions)
        for record in broker.read_all(topic, number)
        if body in record.data
    ]


def servers(broker: BrokerProcess) -> str:
    return f"metaq://127.0.0.1:{broker.port}"


def prepared(broker: BrokerProcess) -> list[str]:
    text = broker.ask(b"transaction null null RECOVER 1\r\n").text
    return text.split("\r\n") if text else []


def test_all_at_the_end_of_the_block(run: Run, broker: BrokerProcess, body: bytes) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session, session.producer() as producer:
            async with producer.transaction() as transaction:
                for _ in range(3):
                    sent = await transaction.send("orders", body, attribute="a")
                    assert sent.offset is None
                    assert sent.message_id is not None
                await transaction.send("stock", body)
                assert places(broker, body) == []
            found = places(broker, body)
            assert found == [("orders", 0), ("orders", 1), ("orders", 2), ("stock", 0)]

    run(test)


def test_nothing_where_an_error_ends_the_block(run: Run, broker: BrokerProcess, body: bytes) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session, session.producer() as producer:
            with pytest.raises(ZeroDivisionError):
                await fail(producer.transaction())
            async with producer.transaction() as transaction:
                await transaction.send("orders", body)
                await transaction.roll_back()
                with pytest.raises(SendFailedError, match="it was rolled back"):
                    await transaction.send("orders", body)
            with anyio.move_on_after(0.05) as scope:
                async with producer.transaction() as transaction:
                    await transaction.send("orders", body)
                    await anyio.sleep(60)
            assert scope.cancelled_caught
        assert places(broker, body) == []
        assert broker.status()["transactions"]["open"] == 0

    async def fail(block: object) -> None:
        async with block as transaction:  # type: ignore[attr-defined]
            assert isinstance(transaction, Transaction)
            await transaction.send("orders", body)
            raise ZeroDivisionError

    run(test)


def test_a_message_that_is_refused_spoils_the_transaction(
    run: Run, broker: BrokerProcess, body: bytes
) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session, session.producer() as producer:
            with pytest.raises(TransactionFailedError, match=r"a message was not taken: .*too long"):  # noqa: PT012 - the end of the block raises
                async with producer.transaction() as transaction:
                    await transaction.send("orders", body)
                    with pytest.raises(SendRefusedError):
                        await transaction.send("orders", body * 10_000)
        assert places(broker, body) == []

    run(test)


def test_an_empty_transaction_asks_nobody(run: Run, broker: BrokerProcess) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session, session.producer(TINY) as producer:
            async with producer.transaction():
                pass
            with pytest.raises(TransactionFailedError):  # noqa: PT012
                async with producer.transaction() as transaction:
                    with pytest.raises(NoPartitionError):
                        await transaction.send("nobody", b"")

    run(test)


def test_its_time_is_limited(run: Run, broker: BrokerProcess, body: bytes) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session, session.producer() as producer:
            with pytest.raises(TransactionFailedError, match="has not been started"):  # noqa: PT012
                async with producer.transaction(timeout_seconds=1) as transaction:
                    await transaction.send("orders", body)
                    while broker.status()["transactions"]["open"]:
                        await anyio.sleep(0.02)
        assert places(broker, body) == []

    run(test)


def test_a_branch_in_two_phases_and_one(run: Run, broker: BrokerProcess, body: bytes) -> None:
    async def test() -> None:
        xid = Xid(7, body, b"\xff\x00")
        async with open_session(servers(broker)) as session:
            resource = await session.xa_resource(["orders", "stock"], qualifier="books")
            assert resource.broker_id == 0
            await resource.start(xid, timeout_seconds=30)
            await resource.send(xid, "orders", body)
            await resource.send(xid, "stock", body)
            with pytest.raises(XaError, match="XA -6: Cannot do 2 phase commit"):
                await resource.commit(xid)
            assert await resource.prepare(xid)
            assert await resource.recover() == [xid]
            other = await session.xa_resource("orders", qualifier="other")
            assert await other.recover() == []
        async with open_session(servers(broker)) as session:
            resource = await session.xa_resource(["orders", "stock"], qualifier="books")
            assert await resource.recover() == [xid]
            assert places(broker, body) == []
            await resource.commit(xid)
            assert [topic for topic, _ in places(broker, body)] == ["orders", "stock"]
            with pytest.raises(XaError) as caught:
                await resource.commit(xid)
            assert caught.value.code == -4
            await resource.start(xid)
            assert not await resource.prepare(xid), "read-only"
            await resource.start(xid)
            await resource.send(xid, "stock", body)
            await resource.commit(xid, one_phase=True)
            assert len(places(broker, body)) == 3
            await resource.start(xid)
            await resource.send(xid, "stock", body)
            await resource.roll_back(xid)
            await resource.forget(xid)
            assert len(places(broker, body)) == 3

    run(test)


def test_resources_there_are_not(run: Run, broker: BrokerProcess) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session:
            with pytest.raises(NoPartitionError, match="broker 5 is not one"):
                await session.xa_resource("orders", qualifier="books", broker_id=5)
            with pytest.raises(NoPartitionError, match="no broker takes"):
                await session.xa_resource(["orders", "nobody"], qualifier="books")
            with pytest.raises(ConfigError, match="is no qualifier"):
                await session.xa_resource("orders", qualifier="a:b")

    run(test)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_from_threads(backend: Backend, broker: BrokerProcess, body: bytes) -> None:
    with plain.open_session(servers(broker), backend=backend) as session:
        with session.producer() as producer:
            with producer.transaction() as transaction:
                assert transaction.send("orders", body).offset is None
                transaction.send("stock", body)
            assert len(places(broker, body)) == 2
            with pytest.raises(ZeroDivisionError):
                fail_in_block(producer, body)
            with producer.transaction() as transaction:
                transaction.send("orders", body)
                transaction.roll_back()
            eventually(lambda: not broker.status()["transactions"]["open"], "the rollback")
            assert len(places(broker, body)) == 2
        xid = Xid(1, body)
        resource = session.xa_resource("stock", qualifier="books")
        resource.start(xid)
        resource.send(xid, "stock", body)
        assert resource.prepare(xid)
        assert resource.recover() == [xid]
        resource.commit(xid)
        assert len(places(broker, body)) == 3
        with pytest.raises(XaError):
            resource.roll_back(xid)


def fail_in_block(producer: plain.Producer, body: bytes) -> None:
    with producer.transaction() as transaction:
        transaction.send("orders", body)
        raise ZeroDivisionError


def test_a_lost_connection_loses_the_transaction(run: Run, broker: BrokerProcess, body: bytes) -> None:
    async def test() -> None:
        async with open_session(servers(broker)) as session, session.producer() as producer:
            with pytest.raises(TransactionFailedError, match="the network is gone"):  # noqa: PT012
                async with producer.transaction() as transaction:
                    await transaction.send("orders", body)
                    assert transaction._connection is not None
                    transaction._connection.break_off("the network is gone")
        assert places(broker, body) == []

    run(test)
