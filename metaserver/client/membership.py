"""A consumer's place in its group: its registration, its claims to partitions, and their hand-over.

Nothing is remembered that could be wrong for long: a pass looks at the members, the partitions and the
claims, and takes the steps from what is held to what is this member's share. A member that came or went, a
partition that appeared, a lost session and a claim somebody removed are one case. What stays with this member
is not touched; what leaves it is given back before its next owner can have it; another's is waited for.

While the registry is away nobody can claim anything, and consuming goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio
import attrs

from metaserver.client.assignment import Strategy, assign_blocks, change, share
from metaserver.client.backoff import Backoff
from metaserver.errors import ClientError, DiscoveryError, OffsetUnreadableError, ZooKeeperError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metaserver.client.discovery import Discovery
    from metaserver.client.partition import Partition
    from metaserver.registry.nodes import Nodes

_log = get_logger(__name__)

_AUDIT_SECONDS = 30.0
"""All claims are looked at again after this time."""
_TAKEN_SECONDS = 1.0
"""The same while a partition of this member's share is still another's."""
_LEAVE_SECONDS = 3.0
"""How long a member that leaves waits for the registry."""
_RETRY_SECONDS_MIN = 0.1
_RETRY_SECONDS_MAX = 3.0


class Holder(Protocol):
    """Who consumes what the membership claims."""

    async def take(self, partitions: Sequence[Partition]) -> None:
        """These are this member's now. Raises ClientError where it cannot begin; then they are given back."""

    async def release(self, partitions: Sequence[Partition], *, is_lost: bool) -> None:
        """These are given up: returns when nothing of them is under way and the offsets are stored.

        Lost: another member has them already, so nothing may be stored.
        """


@attrs.define(eq=False)
class Membership:
    """One member of one group; run :meth:`run`, then :meth:`leave`."""

    group: str
    member_id: str
    topics: tuple[str, ...]
    discovery: Discovery
    holder: Holder
    strategy: Strategy = assign_blocks
    held: dict[Partition, None] = attrs.Factory(dict)
    """What this member consumes."""
    problem: str = "not a member yet"
    """Why the group may not be as it should be; blank where it is."""
    is_settled: anyio.Event = attrs.Factory(anyio.Event)
    """Set when a pass has come to its end for the first time."""
    _session: int | None = None
    _owned: set[Partition] = attrs.Factory(set)
    """Claims that stand in this session."""
    _claimed: set[Partition] = attrs.Factory(set)
    """Claims that may stand in it, also without an answer: what is not consumed is given back."""
    _audit_time: float = 0.0
    _topics_of: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    """Of members seen; a member's never change."""
    _wake: anyio.Event = attrs.Factory(anyio.Event)

    async def run(self) -> None:
        """Hold this member's share until cancelled."""
        backoff = Backoff(_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX)
        self.discovery.listen(self._changed)
        try:
            while True:
                self._wake = anyio.Event()
                try:
                    pause_seconds = await self._pass()
                except (ZooKeeperError, ClientError) as error:
                    if str(error) != self.problem:
                        _log.info("Group cannot be joined now", group=self.group, reason=str(error))
                    self.problem = str(error)
                    pause_seconds = backoff.next_seconds()
                else:
                    backoff.reset()
                    self.is_settled.set()
                with anyio.move_on_after(pause_seconds):
                    await self._wake.wait()
        finally:
            self.discovery.ignore(self._changed)

    async def leave(self) -> None:
        """Give everything back and deregister; what cannot be removed ends with the session."""
        await self._release(list(self.held), is_lost=False)
        # The session may go on for long, with other members in it: a lost connection is waited for.
        backoff = Backoff(_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX)
        reason = "no connection"
        with anyio.move_on_after(_LEAVE_SECONDS):
            while (nodes := self.discovery.nodes) is not None and nodes.session in (None, self._session):
                try:
                    await self._give_back(nodes, list(self._claimed))
                    await nodes.remove([self.discovery.layout.member(self.group, self.member_id)])
                except ZooKeeperError as error:
                    reason = str(error)
                    await anyio.sleep(backoff.next_seconds())
                else:
                    return
        _log.info("Registration is left to the session's end", group=self.group, reason=reason)

    def _changed(self) -> None:
        self._wake.set()

    async def _pass(self) -> float:
        """Come to this member's share; returns how long to wait unless something happens."""
        nodes = self.discovery.connected()
        session = nodes.session
        if session is None:
            raise DiscoveryError(self.discovery.servers.connect, "no connection")
        if session != self._session:
            # What was claimed in the old one has ended with it.
            self._session, self._owned, self._claimed, self._audit_time = session, set(), set(), 0.0
        is_audit = anyio.current_time() >= self._audit_time
        await self._register(nodes)
        wanted = await self._share(nodes)
        steps = change(list(self.held), wanted)
        lost = await self._lost(nodes, [p for p in steps.release if p not in self._owned])
        await self._release([p for p in steps.release if p in lost], is_lost=True)
        await self._release([p for p in steps.release if p not in lost], is_lost=False)
        await self._give_back(nodes, sorted(self._claimed.difference(self.held, wanted), key=str))
        doubtful = [p for p in wanted if is_audit or p not in self._owned or p not in self.held]
        taken = await self._claim(nodes, doubtful)
        if is_audit:
            self._audit_time = anyio.current_time() + _AUDIT_SECONDS
        self.problem = f"{len(taken)} partitions are still another member's" if taken else ""
        if taken:
            return _TAKEN_SECONDS
        return max(0.0, self._audit_time - anyio.current_time())

    async def _register(self, nodes: Nodes) -> None:
        path = self.discovery.layout.member(self.group, self.member_id)
        data = ",".join(self.topics).encode()
        if path not in await nodes.claim({path: data}):
            # Of a session of ours that has ended, and whose end the registry has not noticed yet.
            await nodes.remove([path])
            await nodes.claim({path: data})

    async def _share(self, nodes: Nodes) -> list[Partition]:
        layout = self.discovery.layout
        parent = layout.members(self.group)
        names = (await nodes.children([parent], is_watched=True))[parent] or []
        unknown = [name for name in names if name not in self._topics_of]
        read = await nodes.read(layout.member(self.group, name) for name in unknown)
        for name, node in zip(unknown, read.values(), strict=True):
            if node is not None:
                self._topics_of[name] = tuple(node.data.decode("utf-8", "replace").split(","))
        self._topics_of = {name: self._topics_of[name] for name in names if name in self._topics_of}
        cluster = self.discovery.cluster
        partitions = {topic: cluster.readable(topic) for topic in self.topics}
        return share(self.member_id, self._topics_of, partitions, self.strategy)

    async def _claim(self, nodes: Nodes, partitions: Iterable[Partition]) -> list[Partition]:
        """Claim what is free, and begin to consume it; returns what is another member's."""
        paths = {self._owner_path(partition): partition for partition in partitions}
        own = self.member_id.encode()
        self._claimed.update(paths.values())
        claimed = await nodes.claim(dict.fromkeys(paths, own))
        others = await nodes.read((path for path in paths if path not in claimed), is_watched=True)
        stale = [path for path, node in others.items() if node is not None and node.data == own]
        if stale:
            await nodes.remove(stale)
            claimed |= await nodes.claim(dict.fromkeys(stale, own))
        self._owned.update(paths[path] for path in claimed)
        taken = [partition for path, partition in paths.items() if path not in claimed]
        self._owned.difference_update(taken)
        self._claimed.difference_update(taken)
        # Whoever has them took them after our session had ended.
        await self._release([p for p in taken if p in self.held], is_lost=True)
        fresh = [paths[path] for path in paths if path in claimed and paths[path] not in self.held]
        await self._take(fresh)
        return taken

    async def _take(self, partitions: Sequence[Partition]) -> None:
        """Begin to consume; a partition whose offset is damaged keeps no other from it, and raises."""
        if not partitions:
            return
        try:
            await self.holder.take(partitions)
        except OffsetUnreadableError as error:
            others = [partition for partition in partitions if partition not in error.partitions]
            if len(others) < len(partitions):
                await self._take(others)
            raise
        self.held.update(dict.fromkeys(partitions))
        _log.info("Partitions taken", group=self.group, partitions=[str(p) for p in partitions])

    async def _release(self, partitions: Sequence[Partition], *, is_lost: bool) -> None:
        if not partitions:
            return
        await self.holder.release(partitions, is_lost=is_lost)
        for partition in partitions:
            self.held.pop(partition, None)
        _log.info("Partitions released", group=self.group, partitions=[str(p) for p in partitions])

    async def _lost(self, nodes: Nodes, partitions: Iterable[Partition]) -> set[Partition]:
        """Those that are another member's by now: this member's session had ended."""
        paths = {self._owner_path(partition): partition for partition in partitions}
        if not paths:
            return set()
        own = self.member_id.encode()
        found = await nodes.read(paths)
        return {paths[path] for path, node in found.items() if node is not None and node.data != own}

    async def _give_back(self, nodes: Nodes, partitions: Iterable[Partition]) -> None:
        """Remove claims, so that others can have the partitions; those that are another's stay."""
        paths = {self._owner_path(partition): partition for partition in partitions}
        if not paths:
            return
        own = self.member_id.encode()
        found = await nodes.read(paths)
        await nodes.remove([path for path, node in found.items() if node is not None and node.data == own])
        self._owned.difference_update(paths.values())
        self._claimed.difference_update(paths.values())

    def _owner_path(self, partition: Partition) -> str:
        return self.discovery.layout.owner(self.group, partition.topic, partition.in_topic)


@attrs.define(eq=False)
class Broadcast:
    """No group at all: every partition is consumed, whoever else does so; in the place of a Membership."""

    topics: tuple[str, ...]
    discovery: Discovery
    holder: Holder
    held: dict[Partition, None] = attrs.Factory(dict)
    problem: str = ""
    is_settled: anyio.Event = attrs.Factory(anyio.Event)
    _wake: anyio.Event = attrs.Factory(anyio.Event)

    async def run(self) -> None:
        """Hold every partition until cancelled."""
        self.discovery.listen(self._changed)
        try:
            while True:
                self._wake = anyio.Event()
                wanted = [p for topic in self.topics for p in self.discovery.cluster.readable(topic)]
                fresh = [partition for partition in wanted if partition not in self.held]
                pause_seconds = _AUDIT_SECONDS
                try:
                    if fresh:
                        await self.holder.take(fresh)
                    self.held.update(dict.fromkeys(fresh))
                except ClientError as error:
                    self.problem, pause_seconds = str(error), _RETRY_SECONDS_MAX
                else:
                    self.problem = ""
                    self.is_settled.set()
                with anyio.move_on_after(pause_seconds):
                    await self._wake.wait()
        finally:
            self.discovery.ignore(self._changed)

    async def leave(self) -> None:
        """Stop consuming; the offsets are stored."""
        await self.holder.release(list(self.held), is_lost=False)
        self.held.clear()

    def _changed(self) -> None:
        self._wake.set()
