"""The master of a synchronous pair whose slave is MetaQ's: each put is sent on as it is written.

A slave of ours is sent nothing: it copies the log, and puts wait for its reports (:mod:`acknowledgements`).

Source: reference replication B3.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs

from metaserver.errors import RefusedError
from metaserver.message import checksum, iterate_records
from metaserver.protocol import Status, encode_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.message import Buffer, Record
    from metaserver.names import TopicPartition
    from metaserver.timers import Timers

DISCONNECTED = "Slave is disconnected "


class SyncLink(Protocol):
    """A connection to the slave."""

    def submit(self, encode: Callable[[int], bytes], settle: Callable[[bool], None]) -> None:
        """Send a frame, made for an opaque, in its turn.

        ``settle`` is told once whether it was answered 200.
        """


@attrs.define(eq=False)
class Copies:
    """What becomes of the messages of one put at the slave."""

    _open: int
    _is_stored: bool = True
    _then: Callable[[bool], None] | None = None

    def settle(self, is_stored: bool) -> None:  # noqa: FBT001 - an outcome
        """One message is answered, or will not be."""
        self._is_stored &= is_stored
        self._open -= 1
        self._tell_when_known()

    def when_known(self, then: Callable[[bool], None]) -> None:
        """Call once, with whether the slave has all of them, when that is known; perhaps at once."""
        self._then = then
        self._tell_when_known()

    def _tell_when_known(self) -> None:
        if self._open == 0 and self._then is not None:
            then, self._then = self._then, None
            then(self._is_stored)


@attrs.define(eq=False)
class PairMaster:
    """What a broker does because it is one."""

    slave_uri: str
    timeout_seconds: float
    _timers: Timers
    link: SyncLink | None = None
    """None: there is no connection."""
    is_copied: bool = False
    """Whether the slave is one of ours, which needs nothing of this."""
    on_outcome: Callable[[bool], None] = lambda _is_stored: None
    """Told of each message whether the slave has it."""

    def check(self) -> None:
        """Raises RefusedError where nothing can be sent on."""
        if self.link is None and not self.is_copied:
            raise RefusedError(Status.ERROR, DISCONNECTED)

    @property
    def sends(self) -> bool:
        """Whether puts are sent on, rather than fetched by the slave itself."""
        return self.link is not None and not self.is_copied

    def copy(self, name: TopicPartition, records: Buffer) -> Copies:
        """Send messages on, in their order; they are appended here meanwhile."""
        found = list(iterate_records(records))
        copies = Copies(len(found))
        waiting = [_Once(self, copies) for _ in found]
        for record, once in zip(found, waiting, strict=True):
            if self.link is None:
                once.settle(is_stored=False)
            else:
                self.link.submit(partial(_encode, name, record), once.settle)
        self._timers.schedule(self.timeout_seconds, partial(_time_over, waiting))
        return copies

    def failure_text(self, name: TopicPartition) -> str:
        """Of a message that the slave may not have."""
        return f"Put message to [slave '{self.slave_uri}'] [partition '{name}'] failed"


@attrs.define(eq=False)
class _Once:
    """The outcome of one message: an answer, or the end of its time, whatever comes first."""

    _master: PairMaster
    _copies: Copies | None

    def settle(self, is_stored: bool) -> None:  # noqa: FBT001 - an outcome
        copies, self._copies = self._copies, None
        if copies is not None:
            self._master.on_outcome(is_stored)
            copies.settle(is_stored)


def _encode(name: TopicPartition, record: Record, opaque: int) -> bytes:
    data = record.data
    return encode_sync(
        name.topic, name.partition, data, record.flag, record.message_id, checksum(data), opaque
    )


def _time_over(waiting: list[_Once]) -> None:
    for once in waiting:
        once.settle(is_stored=False)
