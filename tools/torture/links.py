"""What networks do to a master and its slave: cuts, losses, slow and long ways, peers that vanish.

Master, slave and clients each have a network namespace and a cable to each of the others. Only the cable
between master and slave has faults: producers and consumers go on all the time, and everything is looked at
afterwards.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import ConsumerOptions, open_session
from metaserver.client.offsets_registry import RegistryOffsets
from tools.torture.commands import must_find_nothing
from tools.torture.groups import WatchedOffsets
from tools.torture.load import Consumer, Load
from tools.torture.network import Network, network
from tools.torture.nodes import Place, Site, until
from tools.torture.proxy import LongWay, long_way
from tools.torture.verifier import BrokenPromiseError, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tools.torture.logfiles import Name
    from tools.torture.network import Cable

TOPICS = ("[topic=orders]\nnumPartitions=3", "[topic=events]\nnumPartitions=1")
NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2), ("events", 0))
SETTINGS = {"maxSegmentSize": 1024 * 1024, "recoveryCheckpointBytes": 512 * 1024}
_REGISTRY = "registryPort=0\nzk.zkSyncTimeMs=0"
_GROUP = "watchers"
_CONNECTIONS = 2
_LOAD_SECONDS_MAX = 60.0
_CATCH_UP_SECONDS_MAX = 120.0
ROUND_TRIP_SECONDS = 0.2


@attrs.define
class Figures:
    """What a run has come to."""

    catch_up_seconds: float = 0.0
    """From the last acknowledgement until the slave had everything."""
    connections: int = 0
    """Of the slave to its master, as it has logged them."""
    group_stores: int = 0
    seconds: float = 0.0


@attrs.define(eq=False)
class Linked:
    """A master and a slave with a cable between them, and one run of load over it."""

    place: Place
    cable: Cable
    clients_host: str
    """Where the slave reaches this process."""
    messages: int
    """Acknowledged before, during and after the fault, each."""
    seconds: float
    """How long the fault lasts at least."""
    verifier: Verifier = attrs.Factory(Verifier)
    figures: Figures = attrs.Factory(Figures)
    prefix: PrefixCheck = attrs.field(init=False)
    way: LongWay | None = None
    _random: Random = attrs.Factory(lambda: Random(1))

    def __attrs_post_init__(self) -> None:
        self.prefix = PrefixCheck(self.place.master_data, self.place.slave_data)

    async def run(self, fault: Callable[[Linked], Awaitable[None]]) -> None:
        """Load, the fault with load, load again; raises BrokenPromiseError where a promise is broken."""
        began = time.monotonic()
        place = self.place
        async with AsyncExitStack() as stack:
            await trio.to_thread.run_sync(place.master.start)
            if fault is far_away:
                master = (self.cable.left.address, place.master_port)
                reached = place.master_site.host, place.master_port
                way = long_way(reached, ROUND_TRIP_SECONDS, self.clients_host)
                self.way = await stack.enter_async_context(way)
                # What the proxy does not carry: the registry.
                registry = f"{master[0]}:{place.master.ask('status')['embedded_registry']['port']}"
                place.follow(f"{self.clients_host}:{self.way.port}", registryAddress=registry)
            await trio.to_thread.run_sync(place.slave.start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.prefix.keep_looking)
                nursery.start_soon(self._consume_in_a_group)
                await self.load()
                await fault(self)
                await self.load()
                await self._catch_up()
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(self._compare)
            self.figures.connections = place.slave.output.read_text(encoding="utf-8").count(
                "start subscribe message from master success"
            )
            await trio.to_thread.run_sync(self._finish)
        self.figures.seconds = time.monotonic() - began

    async def load(self) -> None:
        """So many messages, with consumers of both; returns when each has been answered."""
        load = Load(self.verifier, NAMES, self._random)
        master, slave = self.place.master_site.host, self.place.slave_site.host
        async with trio.open_nursery() as nursery:
            consumer = Consumer(self.verifier, self._random.choice(NAMES))
            nursery.start_soon(consumer.run, self.place.slave.port, slave)
            async with trio.open_nursery() as loading:
                loading.start_soon(load.run, self.place.master.port, _CONNECTIONS, master)
                what = "messages are acknowledged"
                await until(lambda: load.acknowledged >= self.messages, _LOAD_SECONDS_MAX, what)
                load.stop()
            nursery.cancel_scope.cancel()

    async def load_for_a_while(self) -> None:
        """The same, until the fault has lasted long enough."""
        began = trio.current_time()
        await self.load()
        await trio.sleep_until(began + self.seconds)
        await self.load()

    async def _consume_in_a_group(self) -> None:
        """One member after the other, whose offsets may only grow."""
        servers = f"metaq://{self.place.master_site.host}:{self.place.master_port}"
        options = ConsumerOptions(commit_interval_seconds=0.2)
        async with open_session(servers) as session:
            watched = WatchedOffsets(RegistryOffsets(session.network.discovery))
            while True:
                async with session.consumer(
                    _GROUP, ["orders", "events"], options, offsets=watched
                ) as consumer:
                    with trio.move_on_after(2.0):
                        async for _message in consumer:
                            self.figures.group_stores = watched.stores

    async def _catch_up(self) -> None:
        began = time.monotonic()
        await until(
            self._is_well, _CATCH_UP_SECONDS_MAX, "the slave has everything, and says that all is well"
        )
        self.figures.catch_up_seconds = time.monotonic() - began

    async def wait_caught_up(self) -> None:
        """Returns when the slave has everything, also while there is a fault."""
        what = "the slave catches up all the same"
        await until(lambda: not self.prefix.is_behind(), _CATCH_UP_SECONDS_MAX, what)

    def _is_well(self) -> bool:
        status = self.place.slave.ask("slave-status")
        is_equal = bool(status["connected"]) and status["lag_bytes"] == 0 and not self.prefix.is_behind()
        return is_equal and not self.place.slave.problems()

    def _compare(self) -> None:
        place = self.place
        master, slave = (
            f"{site.host}:{port}"
            for site, port in (
                (place.master_site, place.master_port),
                (place.slave_site, place.slave_port),
            )
        )
        must_find_nothing("compare", master, slave)

    def _finish(self) -> None:
        self.prefix.look_at_everything()
        self.place.slave.stop()
        self.place.master.stop()
        self.verifier.check(self.place.master_data)
        differences = self.prefix.differences()
        if differences:
            raise BrokenPromiseError(differences)
        for data in (self.place.master_data, self.place.slave_data):
            must_find_nothing("verify", str(data))


# The faults. Each returns with the cable healed.


async def cut(linked: Linked) -> None:
    """Nothing comes through, both ways."""
    linked.cable.cut()
    await linked.load_for_a_while()
    linked.cable.heal()


async def cut_towards_slave(linked: Linked) -> None:
    """The slave hears nothing; what it says still arrives."""
    linked.cable.cut_towards(linked.cable.right)
    await linked.load_for_a_while()
    linked.cable.heal()


async def cut_towards_master(linked: Linked) -> None:
    """The master hears nothing; what it says still arrives."""
    linked.cable.cut_towards(linked.cable.left)
    await linked.load_for_a_while()
    linked.cable.heal()


async def lose_1_percent(linked: Linked) -> None:
    """Of all packets, both ways."""
    linked.cable.lose(1)
    await linked.load_for_a_while()
    linked.cable.heal()


async def lose_10_percent(linked: Linked) -> None:
    """Of all packets, both ways; the slave must catch up meanwhile."""
    linked.cable.lose(10)
    await linked.load_for_a_while()
    await until(
        lambda: not linked.prefix.is_behind(), _CATCH_UP_SECONDS_MAX, "the slave catches up all the same"
    )
    linked.cable.heal()


async def slow(linked: Linked) -> None:
    """A megabit in a second, both ways; the slave must catch up meanwhile, over the one connection."""
    linked.cable.limit("1mbit")
    await linked.load_for_a_while()
    await until(
        lambda: not linked.prefix.is_behind(), _CATCH_UP_SECONDS_MAX, "the slave catches up all the same"
    )
    linked.cable.heal()


async def slow_and_lossy(linked: Linked) -> None:
    """A megabit in a second, and one percent is lost."""
    linked.cable.lose(1)
    await slow(linked)


async def half_open(linked: Linked) -> None:
    """The slave vanishes without a word and comes again; its master still has the old connection."""
    linked.cable.unplug(linked.cable.right)
    linked.place.slave.kill()
    await linked.load_for_a_while()
    linked.cable.heal()
    await trio.to_thread.run_sync(linked.place.slave.start)


async def silent_master(linked: Linked) -> None:
    """The way to the master is gone for longer than a slave believes in a connection."""
    linked.cable.unplug(linked.cable.left)
    await linked.load()
    is_gone = "not connected"
    await until(
        lambda: any(is_gone in problem for problem in linked.place.slave.problems()),
        60.0,
        "the slave notices",
    )
    linked.cable.heal()


def _is_gone(problem: str) -> bool:
    return "not connected" in problem


async def far_away(linked: Linked) -> None:
    """All the time 200 ms there and back."""
    await linked.load_for_a_while()


FAULTS: dict[str, Callable[[Linked], Awaitable[None]]] = {
    "cut": cut,
    "cut-towards-slave": cut_towards_slave,
    "cut-towards-master": cut_towards_master,
    "loss-1": lose_1_percent,
    "loss-10": lose_10_percent,
    "1mbit": slow,
    "1mbit-loss-1": slow_and_lossy,
    "half-open": half_open,
    "silent-master": silent_master,
    "200ms": far_away,
}


def wired(net: Network) -> tuple[Cable, tuple[Site, Site], str]:
    """The cable between master and slave, where these two are, and where the slave reaches the clients."""
    between = net.connect("master", "slave")
    to_master, to_slave = net.connect("master", "clients"), net.connect("slave", "clients")
    sites = [
        Site(cable.left.address, "0.0.0.0", tuple(cable.left.namespace.command()))
        for cable in (to_master, to_slave)
    ]
    return between, (sites[0], sites[1]), to_slave.right.address


def run_link(base: Path, fault: str, messages: int, seconds: float) -> Linked:
    """One fault; this process stays in the clients' namespace, so it must be one that was started for this.

    Raises UnavailableError, NodeError and BrokenPromiseError.
    """
    with network() as net:
        cable, sites, clients_host = wired(net)
        place = Place(base / "place", TOPICS, settings=SETTINGS, sites=sites, registry=_REGISTRY)
        # The slave reaches its master over the cable that has the faults.
        place.follow(f"{cable.left.address}:{place.master_port}")
        linked = Linked(place, cable, clients_host, messages, seconds)
        try:
            with net.namespace("clients").entered():
                trio.run(linked.run, FAULTS[fault])
        finally:
            place.end()
    return linked
