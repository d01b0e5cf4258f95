"""What a call of metaserver.client.blocking costs, on each of the loops, beside the same on the loop itself.

Processor time of this process, in microseconds for each call or message of 100 bytes: the broker runs beside
it, on the other core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.from_thread import start_blocking_portal

from metaserver.client import open_session as open_asynchronous
from metaserver.client.blocking import open_session
from tools.bench import wire
from tools.bench.run import CACHE, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client import ReceivedMessage
    from metaserver.client.blocking import Consumer, Producer
    from metaserver.client.blocking.loop_thread import Backend

CALLS = 5_000
BATCH = 500
THREADS = 16
PAYLOAD = bytes(100)


def _each(count: int, work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return round((time.process_time() - begin) / count * 1e6, 2)


async def _nothing() -> None:
    pass


def _send(producer: Producer, count: int) -> None:
    for _ in range(count):
        producer.send(CACHE, PAYLOAD)


def _send_in_threads(producer: Producer) -> None:
    threads = [threading.Thread(target=_send, args=(producer, CALLS // THREADS)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send_nowait(producer: Producer) -> None:
    for _ in range(CALLS):
        producer.send_nowait(CACHE, PAYLOAD)
    producer.flush()


def _iterate(consumer: Consumer, count: int) -> None:
    for _message in consumer:
        count -= 1
        if not count:
            return


def _run(consumer: Consumer) -> None:
    left = CALLS

    def handler(_message: ReceivedMessage) -> None:
        nonlocal left
        left -= 1
        if not left:
            consumer.stop()

    consumer.run(handler)


def measure_blocking(servers: str, backend: Backend, count: int) -> dict[str, float]:
    """All of it, by what was called."""
    figures = {}
    with start_blocking_portal(backend) as portal:
        figures["portal.call"] = _each(CALLS, lambda: [portal.call(_nothing) for _ in range(CALLS)])
    with open_session(servers, backend=backend) as session:
        figures["call"] = _each(CALLS, lambda: [session.call(_nothing) for _ in range(CALLS)])
        with session.producer() as producer:
            batch = [PAYLOAD] * BATCH
            figures["send_many"] = _each(
                count, lambda: [producer.send_many(CACHE, batch) for _ in range(count // BATCH)]
            )
            figures["send"] = _each(CALLS, lambda: _send(producer, CALLS))
            figures[f"send, {THREADS} threads"] = _each(CALLS, lambda: _send_in_threads(producer))
            figures["send_nowait"] = _each(CALLS, lambda: _send_nowait(producer))
        with session.consumer(f"iterate-{backend}", CACHE) as consumer:
            consumer.wait_assigned()
            figures["iterate"] = _each(count, lambda: _iterate(consumer, count))
        with session.consumer(f"run-{backend}", CACHE) as consumer:
            figures["run"] = _each(CALLS, lambda: _run(consumer))
    return figures


async def measure_asynchronous(servers: str, count: int) -> dict[str, float]:
    """The same work by a task of the loop."""
    figures = {}
    async with open_asynchronous(servers) as session:
        async with session.producer() as producer:
            begin = time.process_time()
            for _ in range(CALLS):
                await producer.send(CACHE, PAYLOAD)
            figures["send"] = round((time.process_time() - begin) / CALLS * 1e6, 2)
        async with session.consumer("iterate-asynchronous", CACHE) as consumer:
            await consumer.wait_assigned()
            begin, left = time.process_time(), count
            async for _message in consumer:
                left -= 1
                if not left:
                    break
            figures["iterate"] = round((time.process_time() - begin) / count * 1e6, 2)
    return figures


def main() -> None:
    """Print one JSON line for each loop and side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    count = parser.parse_args().messages
    backends: tuple[Backend, ...] = ("asyncio", "trio")
    wire.pin(wire.GENERATOR_CORE)
    for backend in backends:
        with tempfile.TemporaryDirectory(prefix="bench-blocking-") as directory:
            place = Place(Path(directory), partitions=1, many=1)
            with place.master():
                servers = f"metaq://127.0.0.1:{place.master_port}"
                print(
                    json.dumps({"blocking": backend, **measure_blocking(servers, backend, count)}), flush=True
                )
                found = anyio.run(measure_asynchronous, servers, count, backend=backend)
                print(json.dumps({"asynchronous": backend, **found}), flush=True)


if __name__ == "__main__":
    main()
