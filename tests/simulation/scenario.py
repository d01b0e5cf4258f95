"""What happens in a run: the cluster, its load, and the faults, drawn from one integer."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import attrs

from metaserver.names import AckLevel

if TYPE_CHECKING:
    from collections.abc import Callable

_QUIET_SECONDS = 1.5
"""Before the first fault."""
TRANSACTIONS_FROM = 10_000
"""Seeds below it are as they were before there were transactions: some are tests of repairs."""
ROT_FROM = 20_000
"""The same of disks that change what they hold, and of nodes that look for it."""
JOURNAL_ROT_FROM = 30_000
"""The same of disks that change the journal of transactions."""


@attrs.frozen
class Topic:
    """One topic of a cluster."""

    name: str
    partition_count: int
    level: AckLevel

    def section(self, slave_count: int) -> str:
        """Of the configuration. A put that waits for slaves waits for all of them: any may be promoted."""
        text = f"[topic={self.name}]\nnumPartitions={self.partition_count}\nackLevel={self.level}\n"
        if self.level.waits_for_slaves:
            text += f"minSlaves={slave_count}\nslaveAckTimeoutInMills=2000\n"
        if self.level is AckLevel.MEMORY:
            text += "unflushThreshold=20\nunflushInterval=500\n"
        return text + "\n"


@attrs.frozen
class Action:
    """A fault, or its end; ``target`` is ``master``, ``slave`` (any), ``slaves``, ``consumer``, or blank."""

    at_seconds: float
    kind: str
    target: str = ""
    value: int = 0

    def __str__(self) -> str:
        text = f"{self.kind} {self.target}".rstrip()
        return f"{self.at_seconds:6.2f} s  {text}" + (f" ({self.value})" if self.value else "")


@attrs.frozen
class Scenario:
    """Everything a run needs; the same one gives the same run."""

    seed: int
    slave_count: int
    topics: tuple[Topic, ...]
    producer_count: int
    consumer_count: int
    transactor_count: int
    """Producers that send in transactions."""
    seconds: float
    """How long there are producers."""
    actions: tuple[Action, ...]

    @property
    def has_journal_rot(self) -> bool:
        """Whether the journal of transactions rots too, and is looked at."""
        return self.seed >= JOURNAL_ROT_FROM

    @property
    def has_scrub(self) -> bool:
        """Whether nodes look for damage, and repair it."""
        return self.seed >= ROT_FROM

    def config(self) -> str:
        return "".join(topic.section(self.slave_count) for topic in self.topics)

    def __str__(self) -> str:
        topics = ", ".join(f"{t.name} ({t.partition_count}, {t.level})" for t in self.topics)
        return (
            f"seed {self.seed}: a master, {self.slave_count} slaves, {self.producer_count} producers, "
            f"{self.transactor_count} with transactions, {self.consumer_count} consumers, "
            f"{self.seconds:.0f} s; topics {topics}"
        )


def scenario_of(seed: int) -> Scenario:
    """The scenario that a seed stands for."""
    random = Random(f"{seed} scenario")
    slave_count = random.choice((0, 1, 1, 2, 3))
    topics = [Topic("orders", random.choice((1, 2)), AckLevel.DISK)]
    if random.random() < 0.5:
        topics.append(Topic("clicks", 1, AckLevel.MEMORY))
    if slave_count:
        level = random.choice((AckLevel.SLAVE_DISK, AckLevel.SLAVE_DISK, AckLevel.SLAVE))
        topics.append(Topic("payments", 1, level))
    actions: list[Action] = []
    at = _QUIET_SECONDS
    for _ in range(random.randint(1, 4)):
        episode = random.choice(_episodes(seed, slave_count))
        at += random.uniform(0.0, 2.0)
        actions += episode(random, at)
        at = max(action.at_seconds for action in actions)
    seconds = max(action.at_seconds for action in actions) + random.uniform(1.0, 3.0)
    for _ in range(random.randint(0, 3)):
        actions.append(_action(random.uniform(0.5, seconds), "kill", "consumer"))
    return Scenario(
        seed=seed,
        slave_count=slave_count,
        topics=tuple(topics),
        producer_count=random.choice((1, 2, 2, 3)),
        consumer_count=random.choice((1, 1, 2)),
        transactor_count=random.choice((1, 1, 2)) if seed >= TRANSACTIONS_FROM else 0,
        seconds=round(seconds, 3),
        actions=tuple(sorted(actions, key=lambda action: action.at_seconds)),
    )


# The faults, each with its end.


def _action(at: float, kind: str, target: str = "", value: int = 0) -> Action:
    return Action(round(at, 3), kind, target, value)


def _crash(random: Random, target: str, at: float) -> Action:
    """At once, or in the middle of what its disk is doing some calls later."""
    return _action(
        at, random.choice(("kill", "cut power")), target, random.choice((0, random.randint(1, 60)))
    )


def _master_crashes(random: Random, at: float) -> list[Action]:
    actions = [_crash(random, "master", at)]
    at += random.uniform(0.3, 3.0)
    if random.random() < 0.3:
        # Once more, while it recovers.
        actions += [_action(at, "start and crash", "", random.randint(1, 40))]
        at += random.uniform(0.3, 1.0)
    return [*actions, _action(at, "start")]


def _slave_crashes(random: Random, at: float) -> list[Action]:
    actions = [_crash(random, "slave", at)]
    at += random.uniform(0.3, 4.0)
    if random.random() < 0.3:
        actions += [_action(at, "start and crash", "", random.randint(1, 40))]
        at += random.uniform(0.3, 1.0)
    return [*actions, _action(at, "start")]


def _all_lose_power(random: Random, at: float) -> list[Action]:
    return [_action(at, "cut power", "everybody"), _action(at + random.uniform(0.2, 2.0), "start")]


def _master_stops(random: Random, at: float) -> list[Action]:
    return [_action(at, "stop", "master"), _action(at + random.uniform(0.5, 3.0), "start")]


def _failover(random: Random, at: float) -> list[Action]:
    """The master dies, a slave takes its place, the old one returns as a slave."""
    actions = []
    if random.random() < 0.5:
        # What the slaves have not is about to be lost.
        actions.append(_action(at, "cut", "master to slaves"))
        at += random.uniform(0.2, 1.0)
    actions.append(_crash(random, "master", at))
    at += random.uniform(0.2, 2.0)
    actions += [_action(at, "promote"), _action(at, "heal")]
    at += random.uniform(0.5, 4.0)
    if random.random() < 0.3:
        actions += [_action(at, "start and crash", "", random.randint(1, 60))]
        at += random.uniform(0.3, 1.5)
    return [*actions, _action(at, "start")]


def _all_is_lost_but_slaves(random: Random, at: float) -> list[Action]:
    """Everybody loses power, and the master does not come back before a slave has its place."""
    actions = []
    if random.random() < 0.7:
        actions.append(_action(at, "slow disk", "slaves", 3))
        at += random.uniform(0.3, 2.0)
    actions.append(_action(at, "cut power", "everybody"))
    at += random.uniform(0.2, 1.0)
    actions.append(_action(at, "start", "slaves"))
    at += random.uniform(0.5, 2.0)
    actions.append(_action(at, "promote"))
    return [*actions, _action(at + random.uniform(0.5, 3.0), "start")]


def _zombie(random: Random, at: float) -> list[Action]:
    """The master is cut off from all but its clients, and goes on while a slave takes its place."""
    actions = [_action(at, "cut", "master and the others")]
    if random.random() < 0.5:
        # Nobody tells the clients: they go on with the old master when it is back, and knows better.
        actions.append(_action(at, "cut", "clients and registry"))
    at += random.uniform(0.5, 6.0)
    actions.append(_action(at, "promote"))
    at += random.uniform(0.5, 6.0)
    actions.append(_action(at, "open", "the nodes"))
    at += random.uniform(0.5, 3.0)
    return [*actions, _action(at, "rejoin"), _action(at + random.uniform(0.0, 1.0), "heal")]


def _one_way_cut(random: Random, at: float) -> list[Action]:
    ways = ("master to slaves", "slaves to master", "clients to master", "master to clients",
            "registry to master", "slave and registry", "master and registry")  # fmt: skip
    return [_action(at, "cut", random.choice(ways)), _action(at + random.uniform(0.3, 8.0), "heal")]


def _connections_break(random: Random, at: float) -> list[Action]:
    times = sorted(random.uniform(0.0, 2.0) for _ in range(random.randint(1, 4)))
    return [_action(at + time, "reset", random.choice(("master", "slave"))) for time in times]


def _slow_network(random: Random, at: float) -> list[Action]:
    return [_action(at, "delay"), _action(at + random.uniform(0.5, 4.0), "no delay")]


def _slow_disk(random: Random, at: float) -> list[Action]:
    kind = random.choice(("slow disk", "hang disk"))
    actions = [_action(at, kind, random.choice(("master", "slave")), random.randint(1, 4))]
    if random.random() < 0.5:
        at += random.uniform(0.1, 2.0)
        return [*actions, *_master_crashes(random, at)]
    return actions


def _disk_fails(random: Random, at: float) -> list[Action]:
    """A call fails once; the operator restarts the node, whose partition takes nothing till then."""
    kind = random.choice(("fail sync", "fail sync", "fail write", "fail roll", "fail checkpoint"))
    target = random.choice(("master", "master", "slave"))
    at_end = at + random.uniform(0.5, 3.0)
    return [_action(at, kind, target), _crash(random, target, at_end), _action(at_end + 0.5, "start")]


def _disk_fills(random: Random, at: float) -> list[Action]:
    target = random.choice(("master", "master", "slave"))
    return [_action(at, "fill disk", target), _action(at + random.uniform(0.5, 5.0), "room")]


def _disk_rots(random: Random, at: float) -> list[Action]:
    """Bytes change that others hold as well."""
    actions = []
    for _ in range(random.randint(1, 4)):
        target = random.choice(("master", "slave", "slaves", "everybody"))
        actions.append(_action(at, "rot", target, random.choice((1, 1, 4, 200))))
        at += random.uniform(0.0, 1.5)
    return actions


_EPISODES_ALONE: tuple[Callable[[Random, float], list[Action]], ...] = (
    _master_crashes,
    _master_crashes,
    _all_lose_power,
    _master_stops,
    _one_way_cut,
    _connections_break,
    _slow_disk,
    _disk_fails,
    _disk_fills,
)
_EPISODES = (
    *_EPISODES_ALONE,
    _slave_crashes,
    _slave_crashes,
    _failover,
    _failover,
    _all_is_lost_but_slaves,
    _all_is_lost_but_slaves,
    _zombie,
    _zombie,
    _slow_network,
)


def _episodes(seed: int, slave_count: int) -> tuple[Callable[[Random, float], list[Action]], ...]:
    if not slave_count:
        return _EPISODES_ALONE
    return (*_EPISODES, *[_disk_rots] * 6) if seed >= ROT_FROM else _EPISODES
