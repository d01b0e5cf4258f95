"""Which stretch of a log a filtered get is answered with.

A reply's bytes always lie together in the log and begin where they were asked for: so the client, which
counts bytes, is never led astray, however old it is. What does not pass in front of them is skipped by a 301
that names the offset behind it; what does not pass behind them is left for the next get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.message import iterate_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.filters import Filter
    from metaserver.message import Record

RECORDS_MAX = 2000
"""So many messages are asked about for one get: its worker is free again soon."""
GAP_BYTES = 16 * 1024
"""A client that filters itself gets so much that it does not want along, rather than ask twice more."""

Accepts: TypeAlias = "Callable[[Record], bool]"


@attrs.frozen
class Selection:
    """What becomes of the bytes that were read."""

    skipped_bytes: int
    """In front; none of these messages passes. Where there are some, nothing else counts."""
    size_bytes: int
    """To be sent, from the first byte."""


def select(data: bytes, accepts: Accepts, gap_bytes: int) -> Selection:
    """Look at the whole records in front of ``data``.

    Where there is none, because it is damaged or longer, all is sent as without a filter.
    """
    wanted_end = looked_end = 0
    for count, record in enumerate(iterate_records(data), 1):
        looked_end = record.position + record.size
        if accepts(record):
            if wanted_end == 0 and record.position > 0:
                return Selection(record.position, 0)
            wanted_end = looked_end
        elif wanted_end and looked_end - wanted_end > gap_bytes:
            return Selection(0, wanted_end)
        if count >= RECORDS_MAX:
            break
    if wanted_end:
        return Selection(0, wanted_end)
    return Selection(looked_end, 0) if looked_end else Selection(0, len(data))


def both(one: Filter | None, other: Filter | None) -> Accepts:
    """Whether a record passes all the filters there are."""
    filters = [found for found in (one, other) if found is not None]

    def accepts(record: Record) -> bool:
        attribute, payload = record.attribute, record.payload
        return all(found.accepts(attribute, payload) for found in filters)

    return accepts
