"""The machines of a run, what lives on them, and the operator who carries out a scenario's actions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import connect
from metaserver.client.lane import Sent
from metaserver.client.partition import Partition
from metaserver.errors import ClientError, MetaServerError, SendUnknownError
from metaserver.names import INTERNAL_TOPICS, TRANSACTIONS_LOG, AckLevel
from metaserver.replication import ReplicaState
from metaserver.storage import Point
from tests.simulation.clients import GROUPS, consume, produce, transact
from tests.simulation.disk import SimDisk
from tests.simulation.history import History, SentMessage
from tests.simulation.network import Network
from tests.simulation.node import BROKER_ID, PORT, Machine, Node, Promotion
from tests.simulation.registry import REGISTRY_ADDRESS, SimRegistry
from tests.simulation.rot import choose_rot
from tests.simulation.world import Process, SimClock, current_process
from tests.storage.faulty_filesystem import CrashedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random
    from typing import TypeAlias

    from metaserver.replication.repairing import Damage
    from tests.simulation.scenario import Action, Scenario
    from tests.simulation.world import World

    Load: TypeAlias = Callable[..., Awaitable[None]]
    """produce, or transact."""

NAMES = ("alpha", "beta", "gamma", "delta")
_CONSUMER_AWAY_SECONDS = 1.0
_LOOK_SECONDS = 0.25
_HEAL_SECONDS_MAX = 90.0
"""In virtual time: longer than every time-out, session and pause that may have to pass."""
_SLOW_FACTOR = 100.0
_PRODUCERS_MAX = _CONSUMERS_MAX = 9
"""As many addresses as there are for them."""

_FAILURES = {
    "fail sync": Point.APPEND_SYNC,
    "fail write": Point.APPEND_WRITE,
    "fail roll": Point.ROLL_CREATE,
    "fail checkpoint": Point.CHECKPOINT_WRITE,
}
_DISK_FAULTS = {*_FAILURES, "slow disk", "hang disk", "fill disk", "room", "rot"}
_PASSES_MIN = 2
"""Of the search for damage, from when every fault has ended: one may be under way then."""


@attrs.define(eq=False)
class Cluster:
    """One master and its slaves, with their clients; run inside the nursery."""

    world: World
    scenario: Scenario
    nursery: trio.Nursery
    history: History = attrs.Factory(History)
    network: Network = attrs.field(init=False)
    registry: SimRegistry = attrs.field(init=False)
    machines: dict[str, Machine] = attrs.Factory(dict)
    nodes: dict[str, Node] = attrs.Factory(dict)
    """Those that live."""
    master: str = NAMES[0]
    """Who is to be it, by the operator's last decision."""
    promotions: dict[str, Promotion] = attrs.Factory(dict)
    """As they stand in the data directories: of who was promoted, and not told to follow since."""
    consumers: dict[str, Process] = attrs.Factory(dict)
    is_over: bool = False
    """Whether consumers that end are let go."""
    _random: Random = attrs.field(init=False)
    _lives: int = 0
    _producing: int = 0
    """Producers whose messages have not all been settled."""
    _passes: dict[Node, int] | None = None
    """When every fault had ended: how often each node had looked at everything it holds."""

    def __attrs_post_init__(self) -> None:
        world = self.world
        self.network = Network(world)
        self.registry = SimRegistry(world, self.network)
        self.network.on_change = self.registry.check
        self._random = world.random("operator")
        for number, name in enumerate(NAMES[: self.scenario.slave_count + 1]):
            clock = SimClock()
            disk = SimDisk(clock=clock, name=name, random=world.random(f"disk of {name}"))
            if self.scenario.slave_count:
                # Sectors of one unsynced write that survive in another order leave a damaged range with valid
                # records behind it, which nobody can tell from rot: a replica stops there for a human.
                disk.survivals = ("nothing", "everything", "prefix", "zeros")
            self.machines[name] = Machine(name, f"10.0.0.{number + 1}", number, disk, clock)

    # Lives.

    def start(self, name: str, crash_in_calls: int | None = None) -> None:
        """Start a node that is down, as what it is to be."""
        if name in self.nodes:
            return
        machine = self.machines[name]
        machine.disk.restart()
        if name != self.master:
            self.promotions.pop(name, None)
        self._lives += 1
        process = Process(name, machine.address)
        node = Node(
            self.world,
            self.network,
            self.registry,
            machine,
            process,
            self.world.random(f"life {self._lives} of {name}"),
            self.scenario.config(),
            is_slave=name != self.master,
            promotion=self.promotions.get(name),
            history=self.history,
            has_scrub=self.scenario.has_scrub,
            scrubs_journal=self.scenario.has_journal_rot,
        )
        self.nodes[name] = node
        self.network.powered[machine.address] = True
        if crash_in_calls is not None:
            self._plan_crash(machine, crash_in_calls, has_power=True)
        self.world.log(name, f"starts as {'slave' if node.is_slave else 'master'}")
        self.nursery.start_soon(self._live, process, node.run)

    def crash(self, name: str, *, has_power: bool) -> None:
        """SIGKILL, or the power is cut."""
        node = self.nodes.pop(name, None)
        machine = self.machines[name]
        if node is None:
            return
        node.check()
        # First it must be unable to do anything, then its end is told.
        process = node.process
        self.network.unplug(process, says_goodbye=has_power)
        if has_power:
            machine.disk.is_crashed = True
            self.world.log(name, "is killed")
        else:
            self.network.powered[machine.address] = False
            survival = machine.disk.lose_power()
            self.history.power_cuts += 1
            self.history.power_cuts_of_slaves += node.is_slave
            self.world.log(name, f"loses power; of what was not synced survives: {survival}")
        process.die()

    async def _live(self, process: Process, run: Callable[[], Awaitable[None]]) -> None:
        current_process.set(process)
        try:
            with process.scope:
                await run()
        except* CrashedError:
            if process.is_alive:
                self.world.violations.append(f"{process.name} was told of a crash it has not had")
        except* MetaServerError as group:
            if process.is_alive:
                self.world.log(process.name, f"ends with an error: {group.exceptions[0]}")
        except* Exception as group:  # noqa: BLE001 - whatever ends a process is for the verdict
            if process.is_alive:
                self.world.violations.append(f"{process.name} ends with an exception: {_leaf(group)!r}")
        finally:
            if process.is_alive:
                node = self.nodes.get(process.name)
                if node is not None and node.process is process:
                    node.check()
                    del self.nodes[process.name]
                    self.world.log(process.name, "has stopped")
                self.network.unplug(process, says_goodbye=True)
                process.die()

    def _plan_crash(self, machine: Machine, calls: int, *, has_power: bool) -> None:
        machine.disk.crash_in_calls = calls
        machine.disk.on_crash = lambda: self.crash(machine.name, has_power=has_power)

    # Clients.

    def start_clients(self) -> None:
        scenario, world = self.scenario, self.world
        for number in range(scenario.producer_count):
            name = f"producer{number + 1}"
            process = Process(name, f"10.0.1.{number + 1}")
            self.nursery.start_soon(self._produce, process, produce)
        for number in range(scenario.transactor_count):
            process = Process(f"transactor{number + 1}", f"10.0.1.{_PRODUCERS_MAX - number}")
            self.nursery.start_soon(self._produce, process, transact)
        for number in range(scenario.consumer_count):
            name, group = f"consumer{number + 1}", GROUPS[number % len(GROUPS)]
            self.nursery.start_soon(self._keep_consuming, name, f"10.0.2.{number + 1}", group)
        world.log("operator", "the clients start")

    async def _produce(self, process: Process, send: Load) -> None:
        scenario = self.scenario
        until = trio.current_time() + scenario.seconds

        async def run() -> None:
            await send(self.world, self.registry, self.history, process.name, scenario.topics, until)

        self._producing += 1
        await self._live(process, run)
        self._producing -= 1

    async def _keep_consuming(self, name: str, address: str, group: str) -> None:
        """A consumer that dies is started again, as a new process."""
        while not self.is_over:
            process = self.consumers[name] = Process(name, address)

            async def run() -> None:
                await consume(self.world, self.registry, self.history, name, group, self.scenario.topics)

            await self._live(process, run)
            await trio.sleep(_CONSUMER_AWAY_SECONDS)

    # The operator.

    async def carry_out(self) -> None:
        """Every action at its time; returns when the producers have ended."""
        begun = trio.current_time()
        for action in self.scenario.actions:
            await trio.sleep_until(begun + action.at_seconds)
            self.world.log("operator", f"{action.kind} {action.target}".rstrip())
            await self._act(action)
        await trio.sleep_until(begun + self.scenario.seconds)
        while self._producing:
            await trio.sleep(_LOOK_SECONDS)

    async def _act(self, action: Action) -> None:
        names = self._targets(action.target)
        match action.kind:
            case "kill" if action.target == "consumer":
                self._kill_consumer()
            case "kill" | "cut power":
                for name in names:
                    self._crash_later(name, action.value, has_power=action.kind == "kill")
            case "start" | "start and crash":
                for name in names:
                    self.start(name, action.value if action.kind == "start and crash" else None)
            case "stop":
                for name in names:
                    if name in self.nodes:
                        self.nodes[name].stop()
            case "promote":
                await self._promote()
            case "rejoin":
                await self._rejoin()
            case _ if action.kind in _DISK_FAULTS:
                for name in names:
                    self._spoil(self.machines[name], action)
            case _:
                self._disturb(action, names)

    def _disturb(self, action: Action, names: list[str]) -> None:
        """Something is wrong with the network."""
        match action.kind:
            case "cut":
                self._cut(action.target)
            case "open":
                kept = {cut for cut in self.network.cuts if not self._is_between_nodes(cut)}
                self.network.heal(kept)
            case "heal":
                self.network.heal()
            case "reset":
                for name in names:
                    self.network.reset(self.machines[name].address)
            case "delay" | "no delay":
                self.network.is_delayed = action.kind == "delay"
            case kind:
                raise ValueError(kind)

    def _targets(self, target: str) -> list[str]:
        match target:
            case "master":
                return [self.master]
            case "slave":
                slaves = [name for name in self.machines if name != self.master]
                return [self._random.choice(slaves)] if slaves else []
            case "slaves":
                return [name for name in self.machines if name != self.master]
            case _:
                return list(self.machines)

    def _crash_later(self, name: str, calls: int, *, has_power: bool) -> None:
        if name not in self.nodes:
            return
        if calls:
            self._plan_crash(self.machines[name], calls, has_power=has_power)
        else:
            self.crash(name, has_power=has_power)

    def _kill_consumer(self) -> None:
        if self.consumers:
            name = self._random.choice(list(self.consumers))
            process = self.consumers[name]
            self.world.log(name, "is killed")
            self.network.unplug(process, says_goodbye=True)
            process.die()

    def _spoil(self, machine: Machine, action: Action) -> None:
        """Something is wrong with a disk."""
        disk = machine.disk
        match action.kind:
            case "slow disk":
                disk.sync_factor = _SLOW_FACTOR
                self.world.after(action.value, lambda: setattr(disk, "sync_factor", 1.0))
            case "hang disk":
                disk.hangs_until_seconds = trio.current_time() + action.value
            case "fill disk":
                disk.fill()
            case "room":
                disk.capacity_bytes = None
            case "rot":
                self._rot(machine, action.value)
            case kind:
                disk.planned[_FAILURES[kind]] = "EIO"

    def _rot(self, machine: Machine, size: int) -> None:
        """Bytes of a record that every machine holds for good, with another behind it, change on one of them."""
        disks = [one.disk for one in self.machines.values()]
        with_journal = self.scenario.has_journal_rot
        chosen = choose_rot(disks, machine.disk, self._random, size, with_journal=with_journal)
        if chosen is not None:
            self.world.log(machine.name, f"its disk changes {chosen}")

    def _cut(self, ways: str) -> None:
        master = self.machines[self.master].address
        slaves = [machine.address for name, machine in self.machines.items() if name != self.master]
        clients = [f"10.0.1.{number + 1}" for number in range(_PRODUCERS_MAX)]
        clients += [f"10.0.2.{number + 1}" for number in range(_CONSUMERS_MAX)]
        slave = slaves[:1]
        both: dict[str, list[tuple[str, str]]] = {
            "master to slaves": [(master, other) for other in slaves],
            "slaves to master": [(other, master) for other in slaves],
            "clients to master": [(client, master) for client in clients],
            "master to clients": [(master, client) for client in clients],
            "registry to master": [(REGISTRY_ADDRESS, master)],
            "slave and registry": [(REGISTRY_ADDRESS, other) for other in slave],
            "clients and registry": [
                way for client in clients for way in ((client, REGISTRY_ADDRESS), (REGISTRY_ADDRESS, client))
            ],
            "master and registry": [(REGISTRY_ADDRESS, master), (master, REGISTRY_ADDRESS)],
        }
        both["master and the others"] = [
            *both["master to slaves"],
            *both["slaves to master"],
            *both["master and registry"],
        ]
        for source, target in both[ways]:
            self.network.cut(source, target)

    def _is_between_nodes(self, cut: tuple[str, str]) -> bool:
        own = {REGISTRY_ADDRESS, *(machine.address for machine in self.machines.values())}
        return own.issuperset(cut)

    async def _promote(self) -> None:
        """A slave takes the place of the master: stopped, and started as master on its own data."""
        candidates = [
            name
            for name, node in self.nodes.items()
            if name != self.master and node.is_slave and node.is_ready
        ]
        if not candidates:
            return
        chosen = self._random.choice(candidates)
        predecessor = self.nodes[chosen].followed
        await self._stop_node(chosen)
        self.master = chosen
        now = datetime.fromtimestamp(self.machines[chosen].clock.wall_seconds(), UTC)
        self.promotions[chosen] = Promotion(now.isoformat(timespec="milliseconds"), predecessor)
        self.history.promotions += 1
        self.start(chosen)

    async def _rejoin(self) -> None:
        """Who runs as what it is not to be any more is started as what it is."""
        for name, node in list(self.nodes.items()):
            if node.is_slave != (name != self.master):
                await self._stop_node(name)
                self.start(name)

    async def _stop_node(self, name: str) -> None:
        node = self.nodes[name]
        node.stop()
        with trio.move_on_after(12.0):
            while self.nodes.get(name) is node:
                await trio.sleep(0.05)
        if self.nodes.get(name) is node:
            self.crash(name, has_power=True)

    def may_have_been_rewritten(self, topic: str) -> bool:
        """Whether an offset may stand for another message than once: a group may be where no record begins."""
        if self.history.promotions:
            return True
        level = next(found.level for found in self.scenario.topics if found.name == topic)
        return level is AckLevel.MEMORY and self.history.power_cuts > 0

    # The beginning, and the end.

    async def begin(self) -> None:
        """One message in each partition, with every slave: from here on all logs have a beginning in common."""
        process = Process("operator", "10.0.3.1")
        current_process.set(process)
        for topic in self.scenario.topics:
            for number in range(topic.partition_count):
                await self._send_first(process, topic.name, number)
        while self._what_is_missing():
            await trio.sleep(_LOOK_SECONDS)
        self.network.unplug(process, says_goodbye=True)

    async def _send_first(self, process: Process, topic: str, number: int) -> None:
        partition = Partition(topic, BROKER_ID, number)
        while True:
            sequence = len(self.history.sent) + 1
            message = SentMessage(process.name, sequence, topic, f"{process.name} {sequence} ".encode())
            self.history.sent[message.payload] = message
            try:
                async with connect(self.machines[self.master].address, PORT) as link:
                    result = await link.put(topic, number, message.payload)
            except ClientError as error:
                message.outcome = SendUnknownError(topic, str(partition.in_topic), str(error), 1)
                await trio.sleep(_LOOK_SECONDS)
            else:
                message.outcome = Sent(partition, result.message_id, result.offset)
                return

    async def settle(self) -> None:
        """End every fault, as an operator would, and wait until all is well; a violation where it is not."""
        self.world.log("operator", "every fault ends")
        self.network.heal()
        self.network.is_delayed = False
        for machine in self.machines.values():
            machine.disk.capacity_bytes = None
            machine.disk.planned.clear()
            machine.disk.crash_in_calls = None
        await self._rejoin()
        for name, node in list(self.nodes.items()):
            if not node.is_ready or any(p.log.failure for p in node.broker.partitions.values()):
                self.world.log("operator", f"starts {name} again, for a log of it has failed")
                await self._stop_node(name)
        for name in self.machines:
            self.start(name)
        if self.scenario.slave_count:
            # Alone, nobody repairs what lost sectors of an unsynced write have left.
            scrubs = {node: node.scrub for node in self.nodes.values() if node.scrub is not None}
            self._passes = {node: scrub.passes for node, scrub in scrubs.items()}
        problem = "nothing was looked at"
        with trio.move_on_after(_HEAL_SECONDS_MAX):
            while True:
                await trio.sleep(_LOOK_SECONDS)
                problem = self._what_is_missing()
                if not problem:
                    break
        if problem:
            self.world.violations.append(
                f"not well {_HEAL_SECONDS_MAX:g} s after every fault ended: {problem}"
            )
        self.is_over = True
        for process in self.consumers.values():
            process.scope.cancel()
        await trio.sleep(10 * _LOOK_SECONDS)
        for name in list(self.nodes):
            await self._stop_node(name)
        for machine in self.machines.values():
            if machine.disk.is_crashed:
                self.world.violations.append(f"{machine.name} has not stopped when it was asked to")
                machine.disk.restart()

    def _what_is_missing(self) -> str:
        master = self.nodes.get(self.master)
        if master is None or not master.is_ready:
            return f"{self.master} is not there"
        logs = master.broker.store.partitions
        for name, node in self.nodes.items():
            if node is master:
                continue
            if node.slave is None or not node.is_ready:
                return f"{name} is not there as a slave"
            report = node.slave.report()
            stopped = [r for r in report.partitions if r.state is ReplicaState.STOPPED]
            if stopped:
                return f"{name} has stopped {stopped[0].name}: {stopped[0].reason}"
            for partition, log in logs.items():
                own = node.broker.store.partitions.get(partition)
                if (
                    own is None
                    or own.end_offset != log.end_offset
                    or own.flushed_offset != log.flushed_offset
                ):
                    end = None if own is None else (own.end_offset, own.flushed_offset)
                    return (
                        f"{name} has {end} of {partition}, {self.master} {log.end_offset, log.flushed_offset}"
                    )
        if len(self.nodes) != len(self.machines):
            return f"only {list(self.nodes)} run"
        if self._passes is not None and (problem := self._what_is_damaged(self._passes)):
            return problem
        if not self.consumers:
            return ""
        used = {GROUPS[number % len(GROUPS)] for number in range(self.scenario.consumer_count)}
        for group in sorted(used):
            for partition, log in logs.items():
                if partition.topic in INTERNAL_TOPICS:
                    continue
                path = f"/meta/consumers/{group}/offsets/{partition.topic}/0-{partition.partition}"
                stored = self.registry.nodes.get(path)
                position = 0 if stored is None else int(stored.data.rpartition(b"-")[2])
                if position != log.end_offset:  # Behind the end it is of another log, and will go back.
                    return f"group {group} is at {position} of {partition}, which ends at {log.end_offset}"
        return ""

    def _is_dropped_elsewhere(self, node: Node, damage: Damage) -> bool:
        """What every other node has dropped of the journal of transactions, for it was over, nobody can give."""
        if damage.name != TRANSACTIONS_LOG or len(self.nodes) == 1:
            return False
        logs = [
            one.broker.store.partitions.get(damage.name) for one in self.nodes.values() if one is not node
        ]
        return all(log is not None and log.start_offset > damage.range.start for log in logs)

    def _what_is_damaged(self, passes: dict[Node, int]) -> str:
        for name, node in self.nodes.items():
            if node.scrub is None:
                continue
            for damage in node.scrub.repairer.open.values():
                if self._is_dropped_elsewhere(node, damage):
                    continue
                return f"{name} has damage in {damage.name} at {damage.range}: {damage.reason}"
            if node.scrub.passes < passes.get(node, 0) + _PASSES_MIN:
                return f"{name} has not looked at everything: {node.scrub.problem or 'it is under way'}"
        return ""


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
