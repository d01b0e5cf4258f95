"""The load generator: one kind of load a call, one line of JSON out.

It is kept cheap enough not to be the bottleneck: the standard library only, on the second core,
requests built beforehand, replies counted instead of parsed, read bytes discarded in the kernel.
``put --null`` shows its own limit; each figure of ``put`` says how busy the generator was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.bench import latency, puts, reads, wire


def main() -> None:
    """Run one load, ``--repeat`` times, and print the medians."""
    options = _parser().parse_args()
    figures = wire.medians([options.run(options) for _ in range(options.repeat)])
    print(json.dumps({"load": options.load, "repeat": options.repeat, **figures}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    loads = parser.add_subparsers(dest="load", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repeat", type=int, default=1, help="runs; the medians are printed")
    common.add_argument("--seconds", type=float, default=3.0, help="length of one run")

    broker = argparse.ArgumentParser(add_help=False, parents=[common])
    broker.add_argument("--address", type=wire.parse_address, default="127.0.0.1:8123", metavar="HOST:PORT")
    broker.add_argument("--topic", default="test")
    broker.add_argument("--size", type=int, default=100, help="bytes of a message's data")
    broker.add_argument("--server-pid", type=int, default=0, help="account the CPU time of this process")

    several = argparse.ArgumentParser(add_help=False, parents=[broker])
    several.add_argument("--connections", type=int, default=1)
    several.add_argument("--partitions", type=int, default=1, help="connection N puts into N modulo this")
    several.add_argument("--checksum", action="store_true", help="puts carry the checksum of their data")
    several.add_argument("--warmup", type=float, default=0.5, help="seconds before the counting begins")

    one = argparse.ArgumentParser(add_help=False, parents=[broker])
    one.add_argument("--partition", type=int, default=0)

    put = loads.add_parser("put", parents=[several], help="pipelined puts")
    put.add_argument("--pipeline", type=int, default=1024, help="requests without reply, a connection")
    put.add_argument("--batch", type=int, default=0, help="records in one batched put; 0: one put each")
    put.add_argument("--rate", type=float, default=0, help="messages a second, all connections; 0: no limit")
    put.add_argument("--null", action="store_true", help="against a server that only counts bytes")
    put.set_defaults(run=puts.put)

    ping = loads.add_parser("ping", parents=[several], help="one put at a time on each connection")
    ping.set_defaults(run=puts.ping)

    window = argparse.ArgumentParser(add_help=False)
    window.add_argument("--max-size", type=int, default=1 << 20, help="bytes asked for in one get")
    window.add_argument("--offset", type=int, default=0, help="where the log begins")
    window.add_argument("--pipeline", type=int, default=1, help="gets without reply")
    window.add_argument("--copy", action="store_true", help="copy the bytes out of the kernel")

    read = loads.add_parser("read", parents=[one, window], help="sequential gets")
    read.set_defaults(run=reads.read)

    bare = loads.add_parser("sendfile-baseline", parents=[one, window], help="read from a bare sendfile loop")
    bare.add_argument("--file", required=True, help="the file that is sent")
    bare.set_defaults(run=reads.sendfile_baseline)

    paced = argparse.ArgumentParser(add_help=False, parents=[one])
    paced.add_argument("--rate", type=float, default=500, help="puts a second")

    delay = loads.add_parser("delay", parents=[paced], help="acknowledgement to a reader at the slave")
    delay.add_argument("--slave", type=wire.parse_address, required=True, metavar="HOST:PORT")
    delay.set_defaults(run=latency.delay)

    end_to_end = loads.add_parser("end-to-end", parents=[paced], help="put to a reader at the same broker")
    end_to_end.set_defaults(run=latency.end_to_end)

    catch_up = loads.add_parser("catch-up", parents=[one], help="how fast a new slave copies a partition")
    catch_up.add_argument("--slave", type=wire.parse_address, required=True, metavar="HOST:PORT")
    catch_up.set_defaults(run=latency.catch_up)

    machine = loads.add_parser("machine", parents=[common], help="fdatasync and loopback round trip, bare")
    machine.add_argument("--directory", type=Path, help="where the file that is synced lies")
    machine.set_defaults(run=latency.machine)
    return parser


if __name__ == "__main__":
    main()
