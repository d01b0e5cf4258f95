"""The load of a simulated cluster: real sessions, producers and consumers, each a process on its own machine."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from metaserver.client.consumer import ConsumerOptions
from metaserver.client.producer_options import ProducerOptions
from metaserver.client.scope import background_tasks
from metaserver.client.selectors import RoundRobin
from metaserver.client.servers import Servers
from metaserver.client.session import Session, SessionOptions
from metaserver.errors import (
    ClientError,
    SendFailedError,
    SendUnknownError,
    TransactionUnknownError,
)
from tests.simulation.history import History, SentMessage
from tests.simulation.registry import REGISTRY_ADDRESS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from random import Random

    from metaserver.client import Producer
    from metaserver.client.lane import Sent
    from metaserver.errors import SendError
    from tests.simulation.registry import SimRegistry
    from tests.simulation.scenario import Topic
    from tests.simulation.world import World

GROUPS = ("billing", "audit")
"""By the number of a consumer, in turn; the second reads from slaves where it can."""
_RETRY_SECONDS = 0.5
_BURST_MAX = 6
_PAUSE_SECONDS = (0.02, 0.4)
_BODY_BYTES_MAX = 400
_TRANSACTION_MAX = 5
"""Messages in one."""
_GIVE_UP = 0.15


@asynccontextmanager
async def open_sim_session(registry: SimRegistry) -> AsyncIterator[Session]:
    """As ``open_session``, with the simulated registry in the place of one over TCP."""
    servers = Servers.parse(f"zookeeper://{REGISTRY_ADDRESS}:2181")
    async with background_tasks() as tasks:
        session = Session(servers, SessionOptions(), tasks)
        discovery = session.network.discovery
        discovery._nodes = registry.open(discovery.wake).as_nodes()
        discovery.listen(lambda: session.network.pool.retain(set(discovery.cluster.brokers.values())))
        tasks.start_soon(session.network.timers.run)
        tasks.start_soon(discovery.run)
        await discovery.wait_read(30.0)
        yield session


async def produce(
    world: World,
    registry: SimRegistry,
    history: History,
    name: str,
    topics: Sequence[Topic],
    until_seconds: float,
) -> None:
    """Send bursts until the time is over, and learn the fate of every message."""
    random = world.random(name)
    options = ProducerOptions(timeout_seconds=4.0, request_timeout_seconds=2.5)
    async with (
        open_sim_session(registry) as session,
        session.producer(options, selector=RoundRobin()) as producer,
    ):
        sequence = 0
        while trio.current_time() < until_seconds:
            topic = random.choice(topics).name
            try:
                await producer.partitions(topic)
                for _ in range(random.randint(1, _BURST_MAX)):
                    sequence += 1
                    _send(
                        world,
                        history,
                        producer,
                        SentMessage(name, sequence, topic, _payload(random, name, sequence)),
                    )
            except (ClientError, trio.WouldBlock) as error:
                world.log(name, f"cannot send: {error}", is_detail=True)
            await trio.sleep(random.uniform(*_PAUSE_SECONDS))


def _send(world: World, history: History, producer: Producer, message: SentMessage) -> None:
    def settle(outcome: Sent | SendError) -> None:
        message.outcome, message.settled_seconds = outcome, trio.current_time()
        world.log(message.producer, f"{message.topic} {message.sequence}: {outcome}", is_detail=True)

    history.sent[message.payload] = message
    try:
        producer.send_nowait(message.topic, message.payload, callback=settle)
    except BaseException:
        del history.sent[message.payload]
        raise


async def transact(
    world: World,
    registry: SimRegistry,
    history: History,
    name: str,
    topics: Sequence[Topic],
    until_seconds: float,
) -> None:
    """Send transactions, one after the other, until the time is over; some are given up."""
    random = world.random(name)
    sequence = number = 0
    async with open_sim_session(registry) as session, session.producer(selector=RoundRobin()) as producer:
        while trio.current_time() < until_seconds:
            number += 1
            messages: list[SentMessage] = []
            for _ in range(random.randint(1, _TRANSACTION_MAX)):
                sequence += 1
                payload = _payload(random, name, sequence)
                messages.append(SentMessage(name, sequence, random.choice(topics).name, payload, number))
            is_given_up = random.random() < _GIVE_UP
            fate = await _transact(history, producer, messages, is_given_up=is_given_up)
            world.log(name, f"transaction {number}: {fate}", is_detail=True)
            await trio.sleep(random.uniform(*_PAUSE_SECONDS))


async def _transact(
    history: History, producer: Producer, messages: Sequence[SentMessage], *, is_given_up: bool
) -> str:
    history.sent |= {message.payload: message for message in messages}
    outcomes: list[Sent] = []
    try:
        async with producer.transaction() as transaction:
            outcomes += [await transaction.send(one.topic, one.payload) for one in messages]
            if is_given_up:
                await transaction.roll_back()
        fate = "given up" if is_given_up else ""
    except TransactionUnknownError as error:
        reason = str(error)
        _settle(messages, lambda one: SendUnknownError(one.topic, "", reason, 1))
        return f"unknown: {reason}"
    except ClientError as error:
        fate = f"failed: {error}"
    if fate:
        _settle(messages, lambda one: SendFailedError(one.topic, "", fate, 1))
        return fate
    found = dict(zip((one.payload for one in messages), outcomes, strict=True))
    _settle(messages, lambda one: found[one.payload])
    return "committed"


def _settle(messages: Sequence[SentMessage], outcome: Callable[[SentMessage], Sent | SendError]) -> None:
    for message in messages:
        message.outcome, message.settled_seconds = outcome(message), trio.current_time()


def _payload(random: Random, name: str, sequence: int) -> bytes:
    return f"{name} {sequence} ".encode() + random.randbytes(random.randint(0, _BODY_BYTES_MAX))


async def consume(
    world: World, registry: SimRegistry, history: History, name: str, group: str, topics: Sequence[Topic]
) -> None:
    """Deal with messages until cancelled; a session that cannot be had is tried again."""
    random = world.random(name)
    options = ConsumerOptions(
        commit_interval_seconds=1.0, read_from="slave" if group == GROUPS[1] else "any", release_seconds=3.0
    )
    while True:
        try:
            async with (
                open_sim_session(registry) as session,
                session.consumer(group, [topic.name for topic in topics], options) as consumer,
            ):
                async for message in consumer:
                    if random.random() < 0.1:
                        # What a crash meets in here was handed out, and not dealt with.
                        await trio.sleep(random.uniform(0.0, 0.2))
                    history.delivered(trio.current_time(), name, group, message)
        except ClientError as error:
            world.log(name, f"cannot consume: {error}", is_detail=True)
        await trio.sleep(_RETRY_SECONDS)
