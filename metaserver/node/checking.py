"""Finding and repairing damage in a running node: the scrub, the command ``repair``, and what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from metaserver.metrics import DamageSnapshot
from metaserver.replication.repairing import Address, Repairer, RunningLogs
from metaserver.replication.scrubbing import Scrub
from metaserver.storage import RealFileSystem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.broker import Broker
    from metaserver.names import TopicPartition
    from metaserver.node.following import Following
    from metaserver.node.registry import EmbeddedRegistry, Membership
    from metaserver.replication.repairing import Damage

TOLD_MAX = 200
"""So many damaged ranges are told one by one; the others are counted."""


@attrs.define(eq=False)
class Checking:
    """Run :meth:`run` as long as the node runs."""

    _broker: Broker
    _scrub: Scrub

    @classmethod
    def of(
        cls,
        broker: Broker,
        membership: Membership,
        following: Following | None,
        embedded: EmbeddedRegistry | None,
    ) -> Checking:
        """Of a node: a slave asks its master, a master the slaves that stand in its registry."""

        async def sources() -> list[Address] | None:
            if following is not None:
                return None if following.master_address is None else [following.master_address]
            if not broker.config.zookeeper.enable:
                return []
            slaves = await membership.known_slaves() or ()
            # One that is not registered just now may be back soon.
            return [slave.address for slave in slaves if slave.address is not None] or None

        logs = RunningLogs(broker, embedded)
        scrub = Scrub(broker, logs, Repairer(logs, RealFileSystem(), sources))
        broker.on_suspect = scrub.suspect
        broker.on_cut = scrub.repairer.forget
        return cls(broker, scrub)

    async def run(self) -> None:
        """Until cancelled."""
        await self._scrub.run()

    def handlers(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, object]]]]:
        """For the control socket."""
        return {"repair": self._repair}

    async def _repair(self, request: dict[str, Any]) -> dict[str, object]:
        """Everything, or ``topic`` and ``partition``, at once; from ``source``, or whoever is known."""
        repairer = self._scrub.repairer
        before = repairer.read_bytes
        given = request.get("source")
        source: Address | None = None if given is None else (str(given[0]), int(given[1]))
        found = await repairer.check_all(wanted_by(request.get("topic"), request.get("partition")), source)
        return describe_damages(found, repairer.read_bytes - before)

    def status(self) -> dict[str, object]:
        """In values JSON knows."""
        scrub, repairer = self._scrub, self._scrub.repairer
        position = scrub.position
        return {
            "bytes_per_second": self._broker.config.scrub_bytes_per_second,
            "read_bytes": repairer.read_bytes,
            "passes": scrub.passes,
            "last_pass_seconds": scrub.last_pass_wall_seconds,
            "partition": None if position is None else str(position[0]),
            "offset": None if position is None else position[1],
            "found": repairer.found,
            "repaired": repairer.repaired,
            "open": len(repairer.open),
            "details": [damage.as_fields() for damage in [*repairer.open.values()][:TOLD_MAX]],
        }

    def problems(self) -> list[str]:
        """Why not all of what the node holds can be read, a sentence each."""
        problems = [
            f"{damage.name} is damaged at offsets {damage.range.start} to {damage.range.end}: {damage.reason}"
            for damage in [*self._scrub.repairer.open.values()][:TOLD_MAX]
        ]
        return [*problems, self._scrub.problem] if self._scrub.problem else problems

    def snapshot(self) -> DamageSnapshot:
        """For a scrape."""
        scrub, repairer = self._scrub, self._scrub.repairer
        return DamageSnapshot(
            found=repairer.found,
            repaired=repairer.repaired,
            open=len(repairer.open),
            scrubbed_bytes=repairer.read_bytes,
            passes=scrub.passes,
            last_pass_wall_seconds=scrub.last_pass_wall_seconds,
        )


def wanted_by(topic: str | None, partition: int | None) -> Callable[[TopicPartition], bool]:
    """Which partitions are meant; None: all."""
    return lambda name: topic in (None, name.topic) and partition in (None, name.partition)


def describe_damages(found: list[Damage], read_bytes: int) -> dict[str, object]:
    """In values JSON knows."""
    return {
        "read_bytes": read_bytes,
        "found": len(found),
        "repaired": sum(damage.is_over for damage in found),
        "damages": [damage.as_fields() for damage in found[:TOLD_MAX]],
    }
