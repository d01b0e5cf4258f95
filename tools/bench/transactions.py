"""What transactions cost: of three messages of 100 bytes, in three partitions of one topic.

Each connection has one transaction under way. A local one, and an XA one in one phase, is one write and five
replies; two phases are two round trips, the second one behind the prepare.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from zlib import crc32

from tools.bench import wire
from tools.bench.run import CACHE, FSYNC, Place

BODY = bytes(100)
PARTITIONS = 3
CHECKSUM = crc32(BODY) & 0x7FFFFFFF


def _requests(kind: str, topic: str, key: str) -> list[tuple[bytes, int]]:
    """What is sent in one piece, and how many replies it has."""

    def command(action: str) -> bytes:
        return f"transaction {key} null {action} 1\r\n".encode()

    puts = b"".join(
        f"put {topic} {partition} {len(BODY)} 0 {CHECKSUM} {key} 1\r\n".encode() + BODY
        for partition in range(PARTITIONS)
    )
    if kind == "XA, two phases":
        first = command("BEGIN") + puts + command("PREPARE")
        return [(first, PARTITIONS + 2), (command("COMMIT_TWO_PHASE"), 1)]
    return [(command("BEGIN") + puts + command("COMMIT_ONE_PHASE"), PARTITIONS + 2)]


def _run(address: wire.Address, kind: str, topic: str, client: int, until: float, taken: list[float]) -> None:
    connection = wire.connect(address)
    reader = wire.ReplyReader(connection)
    number = 0
    while (began := time.perf_counter()) < until:
        number += 1
        key = f"XID:1:{client:04x}{number:08x}::b" if kind.startswith("XA") else f"TX:b{client}:{number}"
        for data, replies in _requests(kind, topic, key):
            connection.sendall(data)
            left = replies
            while left > 0:
                for head, body in reader.feed():
                    if head != "result 200":
                        wire.fail(f"{head} {body!r}")
                    left -= 1
        taken.append(time.perf_counter() - began)
    connection.close()


def _measure(address: wire.Address, kind: str, topic: str, connections: int, seconds: float) -> str:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_run, args=(address, kind, topic, client, until, taken))
        for client in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = (wire.percentile(taken, share) * 1e3 for share in (0.5, 0.99))
    return f"| {kind}, {connections} | {topic} | {len(taken) / seconds:,.0f}/s | {p50:.2f} / {p99:.2f} ms |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row")
    options = parser.parse_args()
    print("| kind, connections | topic | transactions | p50 / p99 |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as base, Place(Path(base)).master() as master:
        for connections in (1, 16):
            for topic in (FSYNC, CACHE):
                for kind in ("local", "XA, one phase", "XA, two phases"):
                    print(_measure(("127.0.0.1", master.port), kind, topic, connections, options.seconds))


if __name__ == "__main__":
    main()
