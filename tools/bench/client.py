"""What our own client reaches with one broker through one connection, and what it costs both.

The broker runs on the first core, this process with its producer and consumer on the second. There is one
partition, so one request is under way at a time. Figures are medians of the repeats, a broker for each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from metaserver.client import ConsumerOptions, ProducerOptions, open_session
from tools.bench import wire
from tools.bench.run import CACHE, FSYNC, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.client import Session

Figures = dict[str, float]

SIZES = (100, 1024)
RATES = (500, 5000)
SENDERS = 256


async def _consume(session: Session, topic: str, count: int) -> None:
    async with session.consumer(f"bench-{topic}", topic) as consumer:
        async for _message in consumer:
            count -= 1
            if not count:
                return


async def throughput(session: Session, topic: str, size: int, seconds: float) -> Figures:
    """Send for a while, then consume all of it."""
    payloads = [bytes(size)] * 10_000
    count = 0
    async with session.producer() as producer:
        await producer.send(topic, payloads[0])
        begin, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            count += len(await producer.send_many(topic, payloads))
        took, used = time.perf_counter() - begin, time.process_time() - cpu
        figures = {"send_many_per_second": count / took, "send_many_cpu_us": used / count * 1e6}
        figures |= await _many_senders(producer.send, topic, payloads[0], seconds)
        count += int(figures.pop("sent")) + 1
    begin, cpu = time.perf_counter(), time.process_time()
    await _consume(session, topic, count)
    took, used = time.perf_counter() - begin, time.process_time() - cpu
    return figures | {"consume_per_second": count / took, "consume_cpu_us": used / count * 1e6}


async def _many_senders(
    send: Callable[[str, bytes], Awaitable[object]], topic: str, payload: bytes, seconds: float
) -> Figures:
    """Tasks that send one message after another, each waiting for its own."""
    sent = 0
    begin, cpu = time.perf_counter(), time.process_time()

    async def sender() -> None:
        nonlocal sent
        while time.perf_counter() - begin < seconds:
            await send(topic, payload)
            sent += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(SENDERS):
            tasks.start_soon(sender)
    took, used = time.perf_counter() - begin, time.process_time() - cpu
    return {"send_per_second": sent / took, "send_cpu_us": used / sent * 1e6, "sent": sent}


async def latency(session: Session, topic: str, rate: int, seconds: float) -> Figures:
    """From the call of ``send_nowait`` until the message is with the application, at a fixed rate."""
    delays: list[float] = []
    count = int(rate * seconds)
    options = ConsumerOptions(start="latest")
    async with session.producer(ProducerOptions()) as producer:
        await producer.send(topic, b"first")
        async with session.consumer(f"late-{topic}", topic, options) as consumer:
            await consumer.wait_assigned()
            await anyio.sleep(0.2)

            async def send() -> None:
                next_at = time.perf_counter()
                for _ in range(count):
                    next_at += 1 / rate
                    await anyio.sleep(max(0.0, next_at - time.perf_counter()))
                    producer.send_nowait(topic, b"%020.9f" % time.perf_counter() + bytes(80))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                async for message in consumer:
                    delays.append(time.perf_counter() - float(message.payload[:20]))
                    if len(delays) == count:
                        break
    return wire.latency_figures(delays)


Row = tuple[str, "Callable[[Session], Awaitable[Figures]]"]


def rows(seconds: float) -> list[Row]:
    """What is measured, by name."""
    found: list[Row] = []
    for topic in (FSYNC, CACHE):
        found += [
            (f"{topic}, {size} B", partial(throughput, topic=topic, size=size, seconds=seconds))
            for size in SIZES
        ]
        found += [
            (f"{topic}, delay at {rate}/s", partial(latency, topic=topic, rate=rate, seconds=seconds))
            for rate in RATES
        ]
    return found


def measure(row: Row, backend: str) -> Figures:
    """One row on a broker of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-client-") as directory:
        place = Place(Path(directory), partitions=1, many=1)
        with place.master() as server:
            begin = wire.cpu_seconds(server.pid)
            figures = anyio.run(_with_session, place.master_port, row[1], backend=backend)
            figures["broker_cpu_seconds"] = wire.cpu_seconds(server.pid) - begin
    return figures


async def _with_session(port: int, work: Callable[[Session], Awaitable[Figures]]) -> Figures:
    async with open_session(f"metaq://127.0.0.1:{port}") as session:
        return await work(session)


def main() -> None:
    """Print one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--backend", choices=["trio", "asyncio"], default="trio")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    wire.pin(wire.GENERATOR_CORE)
    for row in rows(options.seconds):
        if options.only not in row[0]:
            continue
        runs = [measure(row, options.backend) for _ in range(options.repeat)]
        figures = {name: round(statistics.median(run[name] for run in runs), 1) for name in runs[0]}
        print(json.dumps({"row": row[0], "backend": options.backend, **figures}), flush=True)


if __name__ == "__main__":
    main()
