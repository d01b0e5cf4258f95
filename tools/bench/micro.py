"""Micro-measurements of the record codec, the part of the work that is done for each message.

Run with ``tools/bench/micro`` in the checkout's environment; figures are the best of several runs.
"""

from __future__ import annotations

import random
import timeit
from typing import TYPE_CHECKING

from metaserver import message

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS = 1000
ROUNDS, TRIES = 20, 5


def _report(name: str, action: Callable[[], object]) -> None:
    seconds = min(timeit.repeat(action, number=ROUNDS, repeat=TRIES)) / (ROUNDS * RECORDS)
    print(f"{name:<36} {seconds * 1e9:8.0f} ns a record  {1 / seconds:12,.0f} records/s")


def main() -> None:
    """Measure the codec on records of 100 bytes."""
    source = random.Random(1)
    bodies = [source.randbytes(100) for _ in range(RECORDS)]
    checksums = [message.checksum(body) for body in bodies]
    ids, flags = list(range(1, RECORDS + 1)), [0] * RECORDS
    run = message.encode_records(bodies, checksums, ids, flags)
    target = bytearray(run)
    positions = list(range(0, len(run), len(run) // RECORDS))
    _report("encode_records", lambda: message.encode_records(bodies, checksums, ids, flags))
    _report("scan", lambda: message.scan(run))
    _report("assign_ids", lambda: message.assign_ids(target, positions, ids))
    _report("iterate_records", lambda: list(message.iterate_records(run)))


if __name__ == "__main__":
    main()
