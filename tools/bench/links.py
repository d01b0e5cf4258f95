"""How fast a slave catches up over a long way and over a narrow one, and what compression saves there.

Master and slave each have a network namespace (root and Linux); between them is a proxy that delivers
each byte later, or a bucket that lets a rate through. The messages are lines of JSON, as programs log them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import open_session
from tools.torture.links import wired
from tools.torture.network import network
from tools.torture.nodes import Place, until
from tools.torture.proxy import long_way

if TYPE_CHECKING:
    from tools.torture.network import Cable

TOPIC = "events"
CATCH_UP_SECONDS_MAX = 300.0
_MEBIBYTE = 1024 * 1024


@attrs.frozen
class Link:
    """One row."""

    name: str
    log_bytes: int
    """What there is to copy."""
    round_trip_seconds: float = 0.0
    rate: str = ""
    """As tc writes it; without one as fast as the machine is."""
    compression: str = "auto"


LINKS = (
    Link("nothing between them", 1024 * _MEBIBYTE),
    Link("200 ms there and back", 1024 * _MEBIBYTE, round_trip_seconds=0.2),
    Link("100 Mbit/s, not compressed", 64 * _MEBIBYTE, rate="100mbit", compression="off"),
    Link("100 Mbit/s", 64 * _MEBIBYTE, rate="100mbit"),
    Link("1 Mbit/s, not compressed", 2 * _MEBIBYTE, rate="1mbit", compression="off"),
    Link("1 Mbit/s", 8 * _MEBIBYTE, rate="1mbit"),
)


def _lines(size_bytes: int) -> list[bytes]:
    chosen = random.Random(1)
    lines: list[bytes] = []
    while size_bytes > 0:
        user, millis = chosen.randrange(10**6), chosen.randrange(1, 2000)
        text = (
            f'{{"time":"2026-11-25T{chosen.randrange(24):02}:{chosen.randrange(60):02}:07.{millis:03}Z",'
            f'"level":"INFO","service":"checkout-{chosen.randrange(9)}","user":{user},'
            f'"request":"{chosen.randbytes(8).hex()}","path":"/api/v2/orders/{chosen.randrange(10**8)}",'
            f'"status":{chosen.choice((200, 200, 200, 201, 404, 503))},"milliseconds":{millis}}}'
        )
        lines.append(text.encode())
        size_bytes -= len(lines[-1]) + 20
    return lines


async def _measure(link: Link, place: Place, cable: Cable, clients_host: str) -> str:
    await trio.to_thread.run_sync(place.master.start)
    address = f"metaq://{place.master_site.host}:{place.master_port}"
    lines = _lines(min(link.log_bytes, 64 * _MEBIBYTE))
    async with open_session(address) as session, session.producer() as producer:
        for _ in range(max(1, link.log_bytes // (64 * _MEBIBYTE))):
            for first in range(0, len(lines), 1000):
                await producer.send_many(TOPIC, lines[first : first + 1000])
    if link.rate:
        cable.limit(link.rate)
    async with AsyncExitStack() as stack:
        if link.round_trip_seconds:
            target = (place.master_site.host, place.master_port)
            way = await stack.enter_async_context(long_way(target, link.round_trip_seconds, clients_host))
            place.follow(f"{clients_host}:{way.port}", linkCompression=link.compression)
        else:
            place.follow(f"{cable.left.address}:{place.master_port}", linkCompression=link.compression)
        await trio.to_thread.run_sync(place.slave.start)
        began = time.monotonic()
        await until(
            lambda: _is_complete(place), CATCH_UP_SECONDS_MAX, f"the slave has everything ({link.name})"
        )
        seconds = time.monotonic() - began
        report = place.slave.ask("slave-status")["link"]
    copied, carried = report["received_bytes"], report["carried_bytes"]
    share = f"{carried / copied:.0%}"
    return (
        f"| {link.name} | {copied / _MEBIBYTE:,.0f} MiB | {seconds:.1f} s | "
        f"{copied / seconds / 1e6:,.2f} MB/s | {share} |"
    )


def _is_complete(place: Place) -> bool:
    details = place.slave.replicas().get((TOPIC, 0))
    return (
        details is not None
        and details["end_offset"] > 0
        and details["state"] == "caught up"
        and details["lag_bytes"] == 0
    )


def measure(link: Link, base: Path) -> str:
    """One row; raises UnavailableError and NodeError."""
    with network() as net:
        cable, sites, clients_host = wired(net)
        topic = f"[topic={TOPIC}]\nunflushThreshold=1000"
        place = Place(base, [topic], sites=sites, registry="registryPort=0")
        try:
            with net.namespace("clients").entered():
                return trio.run(_measure, link, place, cable, clients_host)
        finally:
            place.end()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="the rows whose name has this in it")
    options = parser.parse_args()
    print("| between master and slave | copied | in | rate | of it over the link |")
    print("|---|---:|---:|---:|---:|")
    for link in LINKS:
        if options.only in link.name:
            with tempfile.TemporaryDirectory(prefix="metaserver-bench-") as directory:
                print(measure(link, Path(directory) / "place"), flush=True)


if __name__ == "__main__":
    main()
