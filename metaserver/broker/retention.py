"""Deletes or archives old segments when ``deleteWhen`` says so, of every partition that is open then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.config import next_fire
from metaserver.errors import StorageError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.storage import Clock

_log = get_logger(__name__)

_LOOK_SECONDS = 30.0
"""The wall clock may be set, and the configuration reloaded: neither is trusted for longer."""
_JUMP_SECONDS = 300.0
"""The wall clock was set where it has gone so much more, or less, than the steady one since a look."""
_DISTRUST_SECONDS = 3600.0
"""Nothing is deleted for so long then: by a clock that is a week ahead by mistake every segment is old."""


@attrs.define(eq=False)
class Retention:
    """Applies each topic's ``deletePolicy`` at the times of its ``deleteWhen``."""

    _broker: Broker
    _clock: Clock
    _utc_offset_seconds: Callable[[float], float]
    """How far the local clock is ahead of UTC at an instant: the expressions mean local time."""

    async def run(self) -> None:
        """Wait for the next time and clean, until cancelled."""
        looked = seen = self._clock.wall_seconds()
        trusted_from = seen_steady = self._clock.monotonic_seconds()
        while True:
            await trio.sleep(_LOOK_SECONDS)
            now, steady = self._clock.wall_seconds(), self._clock.monotonic_seconds()
            jump = (now - seen) - (steady - seen_steady)
            seen, seen_steady = now, steady
            if abs(jump) > _JUMP_SECONDS:
                looked, trusted_from = now, steady + _DISTRUST_SECONDS
                _log.warning(
                    "The clock was set: no old files are deleted for a while",
                    by_seconds=round(jump),
                    while_seconds=round(_DISTRUST_SECONDS),
                )
            if steady < trusted_from:
                continue  # What is due meanwhile is due at the end.
            try:
                due = self._due(looked, now)
            except OSError as error:
                # The first look loads what reads expressions: there may be no descriptor left for it.
                _log.error("Cannot look for old files for now", reason=str(error))
                continue
            # A clock that was set back must not fire the same hour twice, nor wait for it to come again.
            looked = now
            if due:
                await self.clean([p for p in self._broker.partitions.values() if p.config.delete_when in due])

    async def clean(self, partitions: list[Partition]) -> None:
        """Apply the policies of these partitions now; returns when all are done.

        What the broker writes itself it removes itself.
        """
        for partition in partitions:
            if partition.is_internal:
                continue
            # Not through the committer: old segments are no part of what it appends to.
            await trio.to_thread.run_sync(self._delete, partition)

    def _due(self, after_seconds: float, now_seconds: float) -> set[str]:
        """The expressions that name a time behind the one, up to the other."""
        partitions = self._broker.partitions.values()
        return {
            expression
            for expression in {p.config.delete_when for p in partitions if not p.is_internal}
            if (fire := next_fire(expression, after_seconds, utc_offset_seconds=self._utc_offset_seconds))
            is not None
            and fire <= now_seconds
        }

    def _delete(self, partition: Partition) -> None:
        """In a worker thread."""
        policy = partition.config.delete_policy
        try:
            names = partition.log.delete_expired(
                policy.action, policy.age_seconds, policy.compress, self._clock.wall_seconds()
            )
        except StorageError as error:
            _log.error("Deleting old files failed", partition=str(partition.name), reason=str(error))
            return
        for name in names:
            _log.info(
                "Deleting file with policy", file=name, partition=str(partition.name), policy=str(policy)
            )
