"""slave-status, reload, stats, topics, check-config."""

from __future__ import annotations

import json
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metaserver.cli.catch_up import describe_catch_up, replicating, watch
from metaserver.cli.chain import describe_chain
from metaserver.cli.cluster import (
    chosen_cluster,
    chosen_profile,
    cluster_arguments,
    describe_registry,
    known_partitions,
    opened,
)
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.installation import absolute, find_installation
from metaserver.cli.options import (
    ROLES,
    chosen_node,
    jmx_options,
    json_option,
    lenient_option,
    node_arguments,
    plug_in_option,
    server_file_option,
)
from metaserver.cli.output import (
    Failure,
    complain,
    count_of,
    describe_config_sync,
    describe_lag,
    describe_quarantine,
    say,
    table,
)
from metaserver.cli.processes import ask
from metaserver.cli.target import Address, address_of, parse_address, server_option
from metaserver.config import (
    ServerConfig,
    load_pair_config,
    load_server_config,
    load_slave_config,
)
from metaserver.config.users import load_users
from metaserver.errors import (
    BrokerUnreachableError,
    ConfigError,
    ProtocolError,
    ReplyError,
    RequestTimeoutError,
)
from metaserver.names import INTERNAL_TOPICS
from metaserver.protocol import ReplyDecoder, Result, Status, encode_stats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.cli.cluster import Choice

_STATS_SECONDS = 10.0
_RECEIVE_BYTES = 256 * 1024


@click.command("slave-status")
@server_file_option
@jmx_options
@json_option
@click.option("--watch", "is_watching", is_flag=True, help="A line a second until nothing is left to copy.")
def slave_status(server_file: Path | None, *, as_json: bool, is_watching: bool) -> None:
    """Say how far the slave is behind its master, partition by partition."""
    installation = find_installation(server_file, is_slave=True)
    if is_watching:
        if as_json:
            raise Failure("--watch prints lines; --json is one report", ExitCode.USAGE)
        watch(partial(ask, installation, "slave-status"))
        return
    status = replicating(ask(installation, "slave-status"))
    say(json.dumps(status, indent=2) if as_json else _describe_replication(status))


@click.command()
@node_arguments
@jmx_options
@json_option
def reload(role: str, server_file: Path | None, plug_ins: tuple[str, ...], *, as_json: bool) -> None:
    """Read server.ini again: topics change at once, everything else at the next start.

    A file with problems changes nothing.
    """
    changes = ask(chosen_node(role, server_file, plug_ins), "reload")
    if as_json:
        say(json.dumps(changes, indent=2))
        return
    labels = {"topics_added": "added", "topics_removed": "removed", "topics_changed": "changed"}
    lines = [
        f"topics {label}: {', '.join(changes[key])}" for key, label in labels.items() if changes.get(key)
    ]
    if changes.get("needs_restart"):
        lines.append(f"these change with the next start: {', '.join(changes['needs_restart'])}")
    say("\n".join(lines or ["reloaded; nothing has changed"]))


@click.command()
@click.argument("words", nargs=-1, metavar="[ITEM] [slave]")
@click.option(
    "-item", "--item", "item_option", metavar="ITEM", help="The same as the argument, as MetaQ has it."
)
@click.option("-host", "--host", "host", help="Another broker.")
@click.option("-port", "--port", "port", type=click.IntRange(1, 65535), help="Another port.")
@click.option(
    "-config",
    "old_server_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The same as -f, as MetaQ has it.",
)
@server_file_option
def stats(
    *,
    words: tuple[str, ...],
    item_option: str | None,
    host: str | None,
    port: int | None,
    old_server_file: Path | None,
    server_file: Path | None,
) -> None:
    """Print statistics of a broker, over its port: of everything, of a topic, or an ITEM of `stats help`."""
    is_slave = bool(words) and words[-1] == "slave"
    items = [*words[: len(words) - is_slave], *([item_option] if item_option is not None else [])]
    if len(items) > 1:
        raise Failure(f"one item at a time, not {' and '.join(items)}", ExitCode.USAGE)
    if host is not None and port is not None:
        address = Address(host, port)
    else:
        own = address_of(find_installation(server_file or old_server_file, is_slave=is_slave))
        address = Address(host or own.host, port or own.port)
    say(query_stats(address, items[0] if items else "").replace("\r\n", "\n").rstrip("\n"))


@click.command()
@click.argument("word", required=False, default="", metavar="[slave | TOPIC]")
@server_option
@click.option("--cluster", "is_cluster", is_flag=True, help="Of all brokers; so with TOPIC, and --servers.")
@cluster_arguments
@plug_in_option
@json_option
def topics(
    *,
    word: str,
    server: str | None,
    is_cluster: bool,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    as_json: bool,
) -> None:
    """List every partition of one node with its offsets and messages, or of a cluster with its replicas."""
    if is_cluster or servers is not None or word not in ROLES or chosen_profile() is not None:
        if server is not None or plug_ins:
            what = "--cluster and --servers ask" if word in ROLES else f"topics {word} asks"
            raise Failure(
                f"{what} all brokers of the cluster; --server and -F are for every topic of one node",
                ExitCode.USAGE,
            )
        import trio

        choice = chosen_cluster(servers, root, server_file)
        report, text = trio.run(_cluster_topics, choice, word)
        if not report["topics"]:
            text += f" {describe_registry(choice.servers, choice.root)}"
        say(json.dumps(report, indent=2) if as_json else text)
        return
    if server is None:
        report = ask(chosen_node(word, server_file, plug_ins), "topics")
    else:
        report = topics_from_stats(parse_address(server))
    say(json.dumps(report, indent=2) if as_json else _describe_topics(report))


async def _cluster_topics(choice: Choice, topic: str) -> tuple[dict[str, Any], str]:
    """As JSON, and as text."""
    from metaserver.cli.topic_report import as_json, describe, report_topics

    async with opened(choice) as session:
        if topic:
            await known_partitions(session, topic)
        reports = await report_topics(session, [topic] if topic else await session.topics())
    announced = [report for report in reports if report.partitions]
    return as_json(announced), describe(announced)


@click.command("check-config")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@lenient_option
@click.pass_context
def check_config(context: click.Context, files: tuple[Path, ...], *, lenient: bool) -> None:
    """List every problem of the files: server.ini, or *.properties of a slave.

    Without FILE: both files of the installation.
    """
    problems: list[str] = []
    chosen = [absolute(file) for file in files] or _installed_files()
    for file in chosen:
        try:
            loaded = _loader_of(file)(file, lenient=lenient)
            for warning in loaded.warnings if isinstance(loaded, ServerConfig) else ():
                complain(warning)
            if isinstance(loaded, ServerConfig) and loaded.http_users_file is not None:
                load_users(loaded.http_users_file)
        except ConfigError as error:
            problems += error.problems
        else:
            say(f"{file}: no problems")
    if problems:
        say("\n".join(problems))
        complain(count_of(len(problems), "problem"))
        context.exit(int(ExitCode.CONFIGURATION))


def query_stats(address: Address, item: str) -> str:
    """The report on one item, over the broker's port. Raises ClientError."""
    decoder = ReplyDecoder()
    try:
        with socket.create_connection(address, timeout=_STATS_SECONDS) as connection:
            connection.sendall(encode_stats(item, 1))
            while True:
                data = connection.recv(_RECEIVE_BYTES)
                if not data:
                    raise BrokerUnreachableError(str(address), "the broker closed the connection")
                for reply in decoder.feed(data):
                    return _text_of(reply)
    except TimeoutError:
        raise RequestTimeoutError(str(address), _STATS_SECONDS) from None
    except OSError as error:
        raise BrokerUnreachableError(str(address), error.strerror or str(error)) from error
    except ProtocolError as error:
        raise BrokerUnreachableError(str(address), error.reason) from error


def topics_from_stats(address: Address) -> dict[str, Any]:
    """What the control socket's ``topics`` tells, from what any broker tells. Raises ClientError."""
    partitions = []
    for line in query_stats(address, "offsets").splitlines():
        match line.split(" "):
            case [topic, "part", partition, "min_offset", start, "max_offset", end] if (
                topic not in INTERNAL_TOPICS
            ):
                partitions.append(
                    {
                        "topic": topic,
                        "partition": int(partition),
                        "start_offset": int(start),
                        "end_offset": int(end),
                        "messages": None,
                        "failed": None,
                    }
                )
    empty = [
        line.removesuffix(" *Empty*")
        for line in query_stats(address, "topics").splitlines()
        if line.endswith(" *Empty*")
    ]
    return {"topics": partitions, "without_messages": empty}


def _text_of(reply: object) -> str:
    if not isinstance(reply, Result):
        raise ReplyError(Status.ERROR, "the broker answered with data where a text was due")
    if reply.status != Status.SUCCESS:
        raise ReplyError(reply.status, reply.text)
    return reply.text


def _loader_of(file: Path) -> Callable[..., object]:
    """By the name, as a plug-in's file is told from another's."""
    if file.suffix != ".properties":
        return load_server_config
    if file.name.startswith("samsa"):
        return load_pair_config
    return partial(load_slave_config, is_gregor=file.name.startswith("gregor"))


def _installed_files() -> list[Path]:
    installation = find_installation(None, is_slave=True)
    slave_file = installation.slave_file
    return [
        installation.server_file,
        *([slave_file] if slave_file is not None and slave_file.exists() else []),
    ]


def _describe_replication(status: dict[str, Any]) -> str:
    """MetaQ's lines first, then what it did not tell."""
    details: Sequence[dict[str, Any]] = status["details"]
    counts: dict[str, int] = {}
    for replica in details:
        counts[replica["topic"]] = counts.get(replica["topic"], 0) + 1
    is_whole = status["connected"] and not status["stopped"]
    lines = [
        "Subscriber handler:running",
        f"Replicate partitions:{status['partitions']}",
        "Replicate topic partitions detail:",
        *(f"  {topic}:{count}" for topic, count in sorted(counts.items())),
        f"Replicate requests:{status['partitions'] - status['stopped']}",
        f"Replicate runner:{'running' if status['connected'] else 'stop'}",
        f"Replicate status:{'yes' if is_whole else 'no'}",
        "",
        f"master {status['master'] or 'not known'}, {'connected' if status['connected'] else 'not connected'}"
        + (f": {status['problem']}" if status["problem"] else ""),
        *describe_chain(status),
        f"behind by {describe_lag(status)}",
        *([describe_catch_up(status)] if status["connected"] else []),
    ]
    if (sync := status.get("config_sync")) is not None:
        lines.append(f"server.ini {describe_config_sync(sync)}")
    lines += [line.strip() for line in describe_quarantine(status["quarantine"])]
    if details:
        rows = [["topic", "partition", "state", "offset", "master", "bytes", "messages", "seconds"]]
        rows += [
            [
                replica["topic"],
                str(replica["partition"]),
                replica["state"],
                str(replica["end_offset"]),
                str(replica["master_end_offset"]),
                str(replica["lag_bytes"]),
                str(replica["lag_messages"]),
                f"{replica['lag_seconds']:.3f}",
            ]
            for replica in details
        ]
        lines += ["", table(rows, right=frozenset({1, 3, 4, 5, 6, 7}))]
        lines += [
            f"{replica['topic']}-{replica['partition']} stopped: {replica['reason']}"
            for replica in details
            if replica["reason"]
        ]
    return "\n".join(lines)


def _describe_topics(report: dict[str, Any]) -> str:
    rows = [["topic", "partition", "start", "end", "bytes", "messages", ""]]
    rows += [
        [
            found["topic"],
            str(found["partition"]),
            str(found["start_offset"]),
            str(found["end_offset"]),
            str(found["end_offset"] - found["start_offset"]),
            "-" if found["messages"] is None else str(found["messages"]),
            found["failed"] or ("closed" if found.get("closed") else ""),
        ]
        for found in report["topics"]
    ]
    lines = [table(rows, right=frozenset({1, 2, 3, 4, 5}))] if report["topics"] else []
    if report["without_messages"]:
        lines.append(f"without messages: {', '.join(report['without_messages'])}")
    return "\n".join(lines or ["no topics"])
