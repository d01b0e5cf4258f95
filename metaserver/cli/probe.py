"""probe: a message through every broker of a cluster, read back from each replica, for cron and monitoring.

What MetaQ's monitor probed itself. ``--textfile`` leaves the outcome, and how far every group is, where
Prometheus finds it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from metaserver.cli.cluster import check_topic, chosen_cluster, cluster_arguments, opened, unknown_topic
from metaserver.cli.options import json_option
from metaserver.cli.output import Failure, complain, count_of, describe_seconds, say, table
from metaserver.names import MAX_OFFSET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metaserver.cli.cluster import Choice
    from metaserver.client import Partition, Session
    from metaserver.client.connection import BrokerConnection
    from metaserver.client.group_report import GroupReport
    from metaserver.registry.paths import Replica

TOPIC_DEFAULT = "meta-monitor-topic"
ATTRIBUTE = "metaserver-probe"
_LOOK_SECONDS = 0.05
_WAIT_MS = 1000


@attrs.define
class Reading:
    """The message as one replica has it."""

    replica: Replica
    seconds: float | None = None
    """From the put to the moment when it could be read here; None: it could not in time."""
    problem: str = ""

    @property
    def name(self) -> str:
        """``master`` or ``slave0``."""
        return "master" if self.replica.slave_id is None else f"slave{self.replica.slave_id}"


@attrs.define
class Probe:
    """One message through one partition."""

    partition: Partition
    put_seconds: float | None = None
    """None: it was not taken."""
    problem: str = ""
    readings: list[Reading] = attrs.Factory(list)

    @property
    def is_fine(self) -> bool:
        """Whether the message is everywhere."""
        return not self.problem and not any(reading.problem for reading in self.readings)


@attrs.frozen
class Request:
    """What is to be probed."""

    topic: str
    every_partition: bool
    replicas_min: int
    timeout_seconds: float
    with_groups: bool


@click.command()
@click.argument("topic", default=TOPIC_DEFAULT)
@click.option("--every-partition", is_flag=True, help="Not only the first of each broker.")
@click.option(
    "--replicas",
    "replicas_min",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fails where fewer than so many, master and slaves, serve a partition.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.001),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For the put, and again for each replica to have it.",
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write metrics there, of all groups too, for the textfile collector of Prometheus' node exporter.",
)
@cluster_arguments
@json_option
def probe(
    *,
    topic: str,
    every_partition: bool,
    replicas_min: int,
    timeout_seconds: float,
    textfile: Path | None,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Send a message to every master and read it back from each replica.

    TOPIC is meta-monitor-topic where it is missing: give it a section in server.ini, with a short
    deletePolicy; nobody else should read it. Exit code 0 says that every message came back everywhere.
    """
    check_topic(topic)
    request = Request(topic, every_partition, replicas_min, timeout_seconds, textfile is not None)
    try:
        probes, groups = trio.run(_probe_all, chosen_cluster(servers, root, server_file), request)
    except Exception:
        # Nothing is known: the time of the last success must not look like now.
        if textfile is not None:
            _write_textfile(textfile, [], [], is_complete=False)
        raise
    if textfile is not None:
        _write_textfile(textfile, probes, groups, is_complete=True)
    say(json.dumps(_as_json(topic, probes), indent=2) if as_json else _describe(probes))
    bad = [one for one in probes if not one.is_fine]
    for one in bad:
        for text in filter(None, [one.problem, *(_sentence(reading) for reading in one.readings)]):
            complain(f"{one.partition}: {text}")
    if bad:
        raise Failure(f"{count_of(len(bad), 'probe')} of {len(probes)} failed")


async def _probe_all(choice: Choice, request: Request) -> tuple[list[Probe], list[GroupReport]]:
    from metaserver.client.group_report import for_each, report_groups

    async with opened(choice) as session:
        topic = request.topic
        await session.network.discovery.want([topic], session.options.discovery_seconds)
        partitions = session.cluster.writable(topic)
        if not partitions:
            if session.cluster.readable(topic):
                raise Failure(f"no master takes messages of topic {topic!r} now")
            raise unknown_topic(session, topic)
        if not request.every_partition:
            partitions = tuple({one.broker_id: one for one in reversed(partitions)}.values())
        probes = [Probe(partition) for partition in sorted(partitions)]

        async def run(one: Probe) -> None:
            await _run(session, one, request)

        await for_each(probes, run)
        return probes, await report_groups(session) if request.with_groups else []


async def _run(session: Session, one: Probe, request: Request) -> None:
    from metaserver.errors import ClientError

    partition, cluster = one.partition, session.cluster
    payload = f"{ATTRIBUTE} {uuid.uuid4()} {time.time():.3f}".encode()
    began = time.monotonic()
    try:
        with trio.fail_after(request.timeout_seconds):
            while (address := cluster.master_address(partition)) is None:
                await trio.sleep(_LOOK_SECONDS)
                cluster = session.cluster
            master = await session.network.pool.link(address).wait_connected(request.timeout_seconds)
            result = await master.put(partition.topic, partition.number, payload, ATTRIBUTE)
    except trio.TooSlowError:
        one.problem = f"the master did not take the message within {request.timeout_seconds:g} s"
        return
    except ClientError as error:
        one.problem = f"the master does not take the message: {error}"
        return
    one.put_seconds = time.monotonic() - began
    one.readings = [Reading(replica) for replica in cluster.replicas(partition)]
    async with trio.open_nursery() as nursery:
        for reading in one.readings:
            nursery.start_soon(_read, session, one, reading, result.offset, payload, request.timeout_seconds)
    if len(one.readings) < request.replicas_min:
        one.problem = f"{count_of(len(one.readings), 'replica')} of {request.replicas_min} serve it"


async def _read(
    session: Session, one: Probe, reading: Reading, offset: int, payload: bytes, timeout_seconds: float
) -> None:
    from metaserver.errors import ClientError

    began = time.monotonic()
    address = session.cluster.brokers.get(reading.replica)
    if address is None:
        reading.problem = "it has left the registry"
        return
    try:
        with trio.fail_after(timeout_seconds):
            connection = await session.network.pool.link(address).wait_connected(timeout_seconds)
            found = await _await_message(connection, one.partition, offset)
    except trio.TooSlowError:
        reading.problem = f"does not have the message after {timeout_seconds:g} s"
    except ClientError as error:
        reading.problem = str(error)
    else:
        reading.seconds = time.monotonic() - began
        if found != payload:
            reading.problem = f"has another message at offset {offset}: its history is not its master's"


async def _await_message(connection: BrokerConnection, partition: Partition, offset: int) -> bytes:
    """The payload of the message at an offset, as soon as there is one."""
    from metaserver.client.messages import Fetched, Moved
    from metaserver.errors import ReplyError

    while True:
        got = await connection.get(partition.topic, partition.number, offset, wait_ms=_WAIT_MS)
        if isinstance(got, Fetched):
            for message in got.messages():
                return message.payload
            raise ReplyError(500, f"no message begins at offset {offset}")
        if isinstance(got, Moved) and got.offset > offset:
            raise ReplyError(301, f"its log begins behind it, at {got.offset}")
        # Its log does not reach so far yet, or does not exist: then it answers at once.
        await trio.sleep(_LOOK_SECONDS)


def _sentence(reading: Reading) -> str:
    return f"the {reading.name} {reading.problem}" if reading.problem else ""


def _as_json(topic: str, probes: list[Probe]) -> dict[str, Any]:
    return {
        "topic": topic,
        "ok": all(one.is_fine for one in probes),
        "probes": [
            {
                "partition": str(one.partition.in_topic),
                "put_seconds": one.put_seconds,
                "problem": one.problem or None,
                "replicas": [
                    {
                        "replica": reading.name,
                        "seconds": reading.seconds,
                        "problem": reading.problem or None,
                    }
                    for reading in one.readings
                ],
            }
            for one in probes
        ],
    }


def _describe(probes: list[Probe]) -> str:
    rows = [["partition", "replica", "put", "read", ""]]
    for one in probes:
        put = "-" if one.put_seconds is None else describe_seconds(one.put_seconds)
        if not one.readings:
            rows.append([str(one.partition.in_topic), "master", put, "-", "failed"])
        for reading in one.readings:
            seconds = "-" if reading.seconds is None else describe_seconds(reading.seconds)
            state = "failed" if reading.problem else "ok"
            rows.append([str(one.partition.in_topic), reading.name, put, seconds, state])
    return table(rows, right=frozenset({2, 3}))


def textfile_lines(probes: Sequence[Probe], groups: Sequence[GroupReport], now: float | None) -> list[str]:
    """Metrics in Prometheus' text format; ``now``: seconds since 1970, None where nothing could be probed."""
    up: list[tuple[dict[str, str], float]] = [({}, float(now is not None))]
    lines = _family("metaserver_probe_up", "whether the cluster could be probed", up)
    if now is None:
        return lines
    replicas = [
        ({"partition": str(one.partition.in_topic), "replica": reading.name}, reading)
        for one in probes
        for reading in one.readings
    ]
    lines += _family("metaserver_probe_time_seconds", "when the cluster was probed", [({}, now)])
    lines += _family(
        "metaserver_probe_success",
        "whether a message came through",
        [({"partition": str(one.partition.in_topic)}, float(one.is_fine)) for one in probes],
    )
    lines += _family(
        "metaserver_probe_put_seconds",
        "how long the put took",
        [
            ({"partition": str(one.partition.in_topic)}, one.put_seconds)
            for one in probes
            if one.put_seconds is not None
        ],
    )
    lines += _family(
        "metaserver_probe_read_seconds",
        "how long after the put a replica had the message",
        [(labels, reading.seconds) for labels, reading in replicas if reading.seconds is not None],
    )
    return lines + list(_group_lines(groups))


def _group_lines(groups: Sequence[GroupReport]) -> Iterator[str]:
    by_topic: dict[tuple[str, str], list[float]] = {}
    for report in groups:
        for found in report.partitions:
            sums = by_topic.setdefault((report.group.name, found.partition.topic), [0.0, 0.0, 0.0])
            offset, end = found.offset or 0, found.end_offset
            sums[0] += found.lag_bytes or 0
            sums[1] += offset
            # Who has never been anywhere but at the end may have stored MetaQ's word for it.
            sums[2] += 0 if end is None or offset == MAX_OFFSET else max(0, offset - end)
    names = (
        ("metaserver_group_lag_bytes", "bytes between a group and the end"),
        ("metaserver_group_offset_bytes", "sum of the offsets a group has stored"),
        ("metaserver_group_ahead_bytes", "bytes that a group stands behind the end"),
    )
    for index, (name, text) in enumerate(names):
        yield from _family(
            name,
            text,
            [({"group": group, "topic": topic}, sums[index]) for (group, topic), sums in by_topic.items()],
        )
    members = [({"group": report.group.name}, float(len(report.group.members))) for report in groups]
    yield from _family("metaserver_group_members", "members of a group", members)


def _family(name: str, text: str, samples: Sequence[tuple[dict[str, str], float]]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        number = int(value) if float(value).is_integer() else value
        lines.append(f"{name}{{{inner}}} {number}" if inner else f"{name} {number}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _write_textfile(
    path: Path, probes: Sequence[Probe], groups: Sequence[GroupReport], *, is_complete: bool
) -> None:
    """Whole, or not at all: the exporter may read at any time."""
    text = "\n".join(textfile_lines(probes, groups, time.time() if is_complete else None)) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Failure(f"{path}: cannot be written: {error.strerror or error}") from error
