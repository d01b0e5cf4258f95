"""start, stop, restart, status."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from metaserver.cli.chain import describe_chain
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import chosen_node, json_option, lenient_option, node_arguments
from metaserver.cli.output import (
    Failure,
    complain,
    count_of,
    describe_bytes,
    describe_config_sync,
    describe_lag,
    describe_quarantine,
    describe_seconds,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metaserver.cli.installation import Installation
    from metaserver.cli.processes import FoundNode
    from metaserver.logs import LogFormat

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0

_log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How log lines look.",
)
_force_option = click.option("--force", is_flag=True, help="Kill it where it does not end in time.")


def _timeout_option(default: float, text: str) -> Callable[[_Function], _Function]:
    return click.option(
        "--timeout",
        "timeout_seconds",
        type=float,
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


@click.command()
@node_arguments
@click.option("--foreground", is_flag=True, help="Stay in this terminal and log to standard error.")
@_log_format_option
@lenient_option
@_timeout_option(_START_SECONDS, "Longest wait until it is ready.")
@click.option("--ready-descriptor", type=int, hidden=True)
@click.option("--hold-descriptor", type=int, hidden=True)
def start(
    *,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    foreground: bool,
    log_format: LogFormat,
    lenient: bool,
    timeout_seconds: float,
    ready_descriptor: int | None,
    hold_descriptor: int | None,
) -> None:
    """Start a node: the master, with `slave` the slave.

    Returns when it answers on its port, or says why it does not.
    """
    installation = chosen_node(role, server_file, plug_ins)
    if foreground:
        # What imports make stays: looking for garbage in it would take a twentieth of the start.
        gc.disable()
        from metaserver.cli.foreground import run_in_foreground, wait_for_the_word

        gc.enable()
        if hold_descriptor is not None and not wait_for_the_word(hold_descriptor):
            return
        run_in_foreground(
            installation, log_format=log_format, is_lenient=lenient, ready_descriptor=ready_descriptor
        )
        return
    _start(installation, log_format, timeout_seconds, is_lenient=lenient)


@click.command()
@node_arguments
@_force_option
@_timeout_option(_STOP_SECONDS, "Longest wait for its end.")
def stop(
    role: str, server_file: Path | None, plug_ins: tuple[str, ...], *, force: bool, timeout_seconds: float
) -> None:
    """Stop a node and wait for its end; clients get the replies to what they have sent."""
    from metaserver.cli.processes import end

    installation = chosen_node(role, server_file, plug_ins)
    pid = end(installation, timeout_seconds, is_forced=force)
    say(f"{installation.role} stopped (pid {pid})")


@click.command()
@node_arguments
@_force_option
@_log_format_option
@lenient_option
@_timeout_option(_START_SECONDS, "Longest wait for the end, and again until it is ready.")
def restart(
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    *,
    force: bool,
    log_format: LogFormat,
    lenient: bool,
    timeout_seconds: float,
) -> None:
    """Stop a node, where it runs, and start it."""
    from metaserver.cli.processes import end, find_node

    installation = chosen_node(role, server_file, plug_ins)
    if find_node(installation).is_running:
        from metaserver.cli.role_change import check_starts

        check_starts(installation, is_lenient=lenient)
        pid = end(installation, timeout_seconds, is_forced=force)
        say(f"{installation.role} stopped (pid {pid})")
    _start(installation, log_format, timeout_seconds, is_lenient=lenient)


@click.command()
@node_arguments
@json_option
@click.option("--check", is_flag=True, help=f"Exit with {int(ExitCode.NOT_RUNNING)} where it is not running.")
@click.pass_context
def status(
    context: click.Context,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    *,
    as_json: bool,
    check: bool,
) -> None:
    """Say whether a node is running, and how it is."""
    from metaserver.cli.processes import find_node

    installation = chosen_node(role, server_file, plug_ins)
    node = find_node(installation)
    if as_json:
        details = node.status or {"role": installation.role, "pid": node.pid}
        say(json.dumps({"running": node.is_running, **details}, indent=2))
    else:
        say(_describe(installation, node))
    if check and not node.is_running:
        context.exit(int(ExitCode.NOT_RUNNING))


def _start(
    installation: Installation, log_format: LogFormat, timeout_seconds: float, *, is_lenient: bool
) -> None:
    from metaserver.cli.processes import describe_ready, find_node, launch

    node = find_node(installation)
    if node.is_running:
        text = f"the {installation.role} of {installation.server_file} is running already (pid {node.pid})"
        raise Failure(text, ExitCode.ALREADY_RUNNING)
    if node.stale_pid is not None:
        complain(f"the pid file of an earlier {installation.role} (pid {node.stale_pid}) is stale; going on")
    options = ["--log-format", log_format, *(["--lenient"] if is_lenient else [])]
    ready = launch(installation, options, timeout_seconds)
    for warning in ready["warnings"]:
        complain(warning)
    if ready.get("decision"):
        complain(f"the {installation.role} of {installation.server_file} was {ready['decision']}")
    say(describe_ready(installation, ready))


def _describe(installation: Installation, node: FoundNode) -> str:
    if not node.is_running:
        hint = "" if node.stale_pid is None else f"; the pid file of pid {node.stale_pid} is stale"
        return f"{installation.role} stopped ({installation.server_file}){hint}"
    found = node.status
    if found is None:
        return f"{installation.role} running (pid {node.pid}), but it does not answer: see its log"
    content = ", ".join(
        [
            count_of(found["topics"], "topic"),
            count_of(found["partitions"], "partition"),
            count_of(found["messages"], "message"),
            describe_bytes(found["bytes"]),
        ]
    )
    uptime = describe_seconds(found["uptime_seconds"])
    lines = [
        f"{found['role']} running (pid {node.pid}) at {found['address']} for {uptime}",
        f"  configuration  {found['config']}",
        f"  data           {found['data_path']}, {describe_bytes(found['disk_free_bytes'])} free",
        f"  HTTP           port {found['http_port']}",
        f"  connections    {found['connections']:,}",
        f"  content        {content}",
    ]
    if found.get("decision") is not None:
        lines.append(f"  decided        {found['decision']['sentence']}")
    embedded = found.get("embedded_registry")
    if embedded is not None:
        sessions = count_of(embedded["sessions"], "session")
        lines.append(f"  registry       port {embedded['port']}, {sessions}")
    if (pair := found.get("pair")) is not None:
        lines.append(
            f"  pair           the slave {pair['slave']} is {'away' if pair['problem'] else 'there'}"
        )
    lines += [f"  slave          {_describe_slave(slave)}" for slave in found.get("slaves", [])]
    lines += [
        f"  slave {slave['slave_id']:<9}{_describe_step(slave)}"
        for slave in found.get("registered_slaves", [])
    ]
    lines += describe_quarantine(found["quarantine"])
    lines.append(f"  scrub          {_describe_scrub(found['scrub'])}")
    replication = found.get("replication")
    if replication is not None:
        state = "connected" if replication["connected"] else "not connected"
        lines += [
            f"  master         {replication['master'] or 'not known'}, {state}",
            *(f"  {line.replace('chain ', 'chain          ', 1)}" for line in describe_chain(replication)),
            f"  behind by      {describe_lag(replication)}",
        ]
    if (sync := found.get("config_sync")) is not None:
        lines.append(f"  server.ini     {describe_config_sync(sync)}")
    lines += [f"  problem        {problem}" for problem in found["problems"]]
    return "\n".join(lines)


def _describe_scrub(scrub: dict[str, Any]) -> str:
    """How far the logs have been read again, and what was found."""
    if not scrub["bytes_per_second"]:
        step = "off"
    elif scrub["partition"] is not None:
        step = (
            f"at {scrub['partition']}, offset {scrub['offset']}, {describe_bytes(scrub['read_bytes'])} read"
        )
    else:
        step = f"everything read {count_of(scrub['passes'], 'time')}"
    damaged = f"{scrub['found']} damaged, {scrub['repaired']} repaired, {scrub['open']} open"
    return f"{step}; {damaged if scrub['found'] else 'no damage'}"


def _describe_slave(slave: dict[str, Any]) -> str:
    name = f"{slave['slave_group']}/{slave['slave_id']}"
    if not slave["connected"]:
        return f"{name} is gone, heard of {describe_seconds(slave['silent_seconds'])} ago"
    if not slave["lag_bytes"]:
        return f"{name} has everything on its disk"
    behind = f"{describe_bytes(slave['lag_bytes'])}, {describe_seconds(slave['lag_seconds'])}"
    return f"{name} behind by {behind}"


def _describe_step(slave: dict[str, Any]) -> str:
    """What the registry says of it."""
    if slave["drift"] is None:
        step = "follows no server.ini of this master that it tells"
    elif slave["drift"]:
        step = f"differs from this master's (merged {slave['merged_checksum']})"
    else:
        step = "in step with this master's"
    return f"{slave['address'] or 'no address'}, server.ini {step}"
