"""What another replica gives for damaged bytes, where it can be shown that they belong there.

It can be shown: both histories are one up to there (epochs), or no epoch covers the damage (of MetaQ, or
from before an upgrade) and what lies around it is equal; the bytes are whole, valid records; and they end
where the damage does, or at the end of a record behind it. Where an epoch covers it nothing around it is
compared: the other replica may be damaged there itself, and two that each lack what the other has must be
able to help each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.client import Fetched
from metaserver.client.comparison import parse_ranges
from metaserver.epochs import LogHistory, common_end
from metaserver.errors import NotRepairedError
from metaserver.message import iterate_records, scan
from metaserver.replication.master import ask_epochs

if TYPE_CHECKING:
    from typing import NoReturn

    from metaserver.client import BrokerConnection
    from metaserver.names import TopicPartition

PIECE_BYTES = 8 * 1024 * 1024
"""Damage that is longer is repaired in pieces of about this size."""
_FETCH_BYTES = 1024 * 1024
_BEHIND_BYTES_MAX = 64 * 1024 * 1024
"""So far behind the damage the end of its last record is looked for."""
_ASK_SECONDS = 15.0


@attrs.frozen(kw_only=True)
class DamagedPlace:
    """Bytes of one segment that hold no valid records, and what is known around them."""

    name: TopicPartition
    start: int
    end: int
    stop: int
    """Where the segment's bytes end."""
    before: bytes = attrs.field(repr=False)
    """Good bytes in front of it."""
    after: bytes = attrs.field(repr=False)
    """Good bytes behind it."""
    history: LogHistory


@attrs.define(eq=False)
class Donor:
    """A replica that is asked, over a connection of its own."""

    _link: BrokerConnection

    async def records_for(self, place: DamagedPlace) -> bytes:
        """Whole records to put where the damage begins; perhaps only the first of them, where it is long.

        Raises NotRepairedError where it cannot be shown that they belong there, and other ClientErrors.
        """
        is_shown = await self._compare_histories(place)
        if not is_shown:
            data = await self._read(place, place.start - len(place.before), place.start)
            if data != place.before:
                self._refuse("what lies in front of the damage differs there")
        size = place.end - place.start
        wanted = min(size, PIECE_BYTES)
        data = await self._read(place, place.start, place.start + wanted)
        while (end := _boundary(data, wanted)) is None:
            if scan(data).fault is not None:
                self._refuse("its bytes are no valid records either")
            more = place.start + min(
                len(data) + _FETCH_BYTES, wanted + _BEHIND_BYTES_MAX, place.stop - place.start
            )
            if more <= place.start + len(data):
                self._refuse("its records end elsewhere")
            data += await self._read(place, place.start + len(data), more)
        if end == size and not is_shown:
            data_behind = await self._read(place, place.end, place.end + len(place.after))
            if data_behind != place.after:
                self._refuse("what lies behind the damage differs there")
        return data[:end]

    async def _compare_histories(self, place: DamagedPlace) -> bool:
        """Whether epochs show that both are one there; False: what lies around it has to. Raises as above."""
        link, name = self._link, place.name
        span = parse_ranges(await link.stats("offsets", _ASK_SECONDS)).get(name)
        if span is None or not span.start <= place.start < place.end <= span.end:
            self._refuse("it does not hold these offsets" if span else "it does not hold the partition")
        own, knows_epochs = place.history.chain.epochs, "epochs" in link.extensions
        is_shown = knows_epochs and bool(own) and own[0].start_offset <= place.start
        if not is_shown and not place.before and not place.after:
            self._refuse("no epoch of both covers the damage, and there is nothing around it to compare")
        if not knows_epochs:
            return False
        try:
            chain = await ask_epochs(link, name, place.end, _ASK_SECONDS)
        except ValueError:
            self._refuse("its epochs cannot be read")
        common = common_end(place.history, LogHistory(chain, span.start, span.end))
        if common is None or common < place.end:
            self._refuse("its history is another one there")
        return is_shown

    async def _read(self, place: DamagedPlace, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        while start < end:
            size = min(end - start, _FETCH_BYTES)
            got = await self._link.get(place.name.topic, place.name.partition, start, size_max=size)
            if not isinstance(got, Fetched) or not got.data:
                self._refuse(f"it gives no bytes at offset {start}")
            data = got.data[:size]
            pieces.append(data)
            start += len(data)
        return b"".join(pieces)

    def _refuse(self, reason: str) -> NoReturn:
        raise NotRepairedError(self._link.address, reason)


def _boundary(data: bytes, wanted: int) -> int | None:
    """The first end of a record at or behind a position."""
    for record in iterate_records(data):
        if (end := record.position + record.size) >= wanted:
            return end
    return None
