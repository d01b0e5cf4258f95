"""promote: a slave takes the place of a master that is gone, and says what may be missing."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import time_text
from metaserver.cli.handover import wait_for_handover
from metaserver.cli.installation import Installation, find_installation
from metaserver.cli.options import chosen_node, json_option, node_arguments
from metaserver.cli.output import Failure, complain, count_of, describe_bytes, say, table
from metaserver.cli.processes import ask, find_node
from metaserver.cli.role_change import (
    START_SECONDS,
    STOP_SECONDS,
    ask_version,
    prepare,
    promotion_text,
    role_of,
    start_again,
    start_options,
    stop_if_running,
    wait_registered,
)
from metaserver.cli.target import Address, parse_address
from metaserver.names import INTERNAL_TOPICS
from metaserver.node.role import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metaserver.cli.processes import Launch
    from metaserver.node.role import Role

_REGISTER_SECONDS = 90.0
_HANDOVER_SECONDS = 600.0


@click.command()
@node_arguments
@click.option("--force", "forces", is_flag=True, help="Also while the master answers, or may be there.")
@click.option(
    "--after-handover",
    "is_handover",
    is_flag=True,
    help="Wait until the master, on another machine, hands over its place with `switchover --to`.",
)
@click.option(
    "--register-timeout",
    "register_seconds",
    type=float,
    default=_REGISTER_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait until it stands in the registry.",
)
@json_option
def promote(
    *,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    forces: bool,
    is_handover: bool,
    register_seconds: float,
    as_json: bool,
) -> None:
    """Make the slave the master, because its master is gone.

    Prints what may be missing, stops the slave, and starts it as master, on its own ports and data. It
    stays master over restarts, until `metaServer follow`. Without a word it is the slave of the
    installation; `local` is the other node.
    """
    installation = chosen_slave(role, server_file, plug_ins)
    before = role_of(installation)
    report = loss_report(installation, before)
    options = start_options(installation)
    tell = complain if as_json else say
    prepared = None
    if is_handover:
        prepared = _wait_for_handover(installation, report, options)
        told = {name: report[name] for name in ("master", "master_promoted")}
        report = {**told, "switchover": True, "partitions": []}
    else:
        check_master_is_gone(report, tell, forces=forces)
    if as_json:
        say(json.dumps(report, indent=2))
    elif not is_handover:
        say(describe_loss(report))
    problem = take_over(installation, before, report, options, register_seconds, prepared, tell)
    if problem:
        text = f"it is master and takes messages, but stands in no registry yet: {problem}; it goes on trying"
        raise Failure(text, ExitCode.TIMEOUT)


def _wait_for_handover(installation: Installation, report: dict[str, Any], options: Sequence[str]) -> Launch:
    master = _master_of(report)
    if master is None:
        raise Failure("the slave has found no master since it was started; there is none to hand over")
    if beyond := report.get("beyond"):
        raise Failure(
            f"{master} is no master, but a slave of {beyond[0]}: places change between a master and its own "
            f"slave. Type `metaServer follow {beyond[-1]}` first"
        )
    own = str(ask(installation, "status")["address"])
    # A node that is a master by its files follows one that is, by its own, a slave.
    word = "" if installation.is_slave else " slave"
    complain(f"waiting for {master}; type on its machine: metaServer switchover{word} --to {own}")
    prepared = prepare(installation, options)
    try:
        wait_for_handover(master, _HANDOVER_SECONDS)
    except BaseException:
        prepared.cancel()
        raise
    return prepared


def chosen_slave(role: str, server_file: Path | None, plug_ins: tuple[str, ...]) -> Installation:
    """The node to be promoted: without a word the slave of the installation. Raises Failure."""
    if role or plug_ins:
        return chosen_node(role, server_file, plug_ins)
    found = find_installation(server_file, is_slave=True)
    if found.slave_file is not None and not found.slave_file.exists():
        return Installation(found.server_file, None)
    return found


def take_over(
    installation: Installation,
    before: Role,
    report: dict[str, Any],
    options: Sequence[str],
    register_seconds: float,
    prepared: Launch | None,
    tell: Callable[[str], None],
) -> str:
    """Stop the slave, decide, start the master; why it is not registered, blank where it is.

    In this order a crash in between leaves a slave that is stopped, or a master that is stopped.
    """
    host, port = _master_of(report) or ("", 0)
    if stop_if_running(installation, STOP_SECONDS, is_hurried=True):
        tell("slave stopped")
    followed = "" if before.decision is None else before.decision.time
    moment = promotion_text(report["master_promoted"], followed)
    decision = Decision(role="master", master_host=host, master_port=port, time=moment, report=report)
    decision.save(before.config.data_path)
    start_again(installation, options, START_SECONDS, prepared, tell)
    problem = wait_registered(installation, register_seconds)
    if not problem:
        registry = ask(installation, "status").get("registry")
        tell("registered nowhere" if registry is None else f"registered as master in {registry['servers']}")
    return problem


def loss_report(installation: Installation, role: Role) -> dict[str, Any]:
    """What the slave has against what its master had; raises Failure where the node is no slave."""
    if role.slave_config is None:
        raise Failure(
            f"the node of {installation.server_file} is master already; there is nothing to promote"
        )
    if not find_node(installation).is_running:
        address = role.slave_config.master_address
        if address is None:
            raise Failure("the slave is not running, and no file names its master: start it first")
        return {
            "master": str(Address(*address)),
            "master_promoted": "",
            "connected": False,
            "problem": "the slave was not running",
            "heard": None,
            "partitions": None,
        }
    status = ask(installation, "slave-status")
    if not status:
        raise Failure(f"the {installation.role} of {installation.server_file} is running as master already")
    sizes = {(found["topic"], found["partition"]): found for found in ask(installation, "topics")["topics"]}
    heard = status.get("heard_seconds")
    return {
        "master": status["master"],
        "master_promoted": status.get("master_promoted", ""),
        "connected": status["connected"],
        "problem": status["problem"],
        "heard": None if heard is None else time_text(heard),
        "beyond": [hop["address"] for hop in status.get("upstream", [])[1:]],
        "partitions": [
            _partition_report(details, sizes.get((details["topic"], details["partition"])))
            for details in status["details"]
        ],
    }


def _master_of(report: dict[str, Any]) -> Address | None:
    """None: a running slave that no file names its master has found none."""
    return parse_address(report["master"]) if report["master"] else None


def _partition_report(details: dict[str, Any], size: dict[str, Any] | None) -> dict[str, Any]:
    missing = max(0, details["master_end_offset"] - details["end_offset"])
    messages = details["lag_messages"]
    if missing and size is not None and size["messages"]:
        average = (size["end_offset"] - size["start_offset"]) / size["messages"]
        messages = math.ceil(missing / average)
    return {
        "topic": details["topic"],
        "partition": details["partition"],
        "end_offset": details["end_offset"],
        "master_end_offset": details["master_end_offset"],
        "missing_bytes": missing,
        "missing_messages": messages if missing else 0,
        "reason": details["reason"],
    }


def check_master_is_gone(report: dict[str, Any], tell: Callable[[str], None], *, forces: bool) -> None:
    """By the slave's link and by a connection of our own; raises Failure, or says so where it is forced."""
    master = _master_of(report)
    if master is None:
        text = "nothing is known of the master: the slave has found none since it was started"
        if not forces:
            raise Failure(
                f"{text}. Where one runs, both would take messages that only one of them keeps; --force goes "
                "on all the same"
            )
        complain(f"{text}; going on, as --force says")
        return
    problems = []
    if report["connected"]:
        problems.append(f"the slave is connected to its master {master}")
    try:
        ask_version(master)
    except OSError as error:
        tell(f"the master {master} does not answer: {error}")
    else:
        problems.append(f"the master {master} answers")
    problems += _living(report.get("beyond", []), tell)
    if not problems:
        return
    text = " and ".join(problems)
    if not forces:
        raise Failure(
            f"{text}: two masters would take messages that only one of them keeps. Stop it first, or hand "
            "over with `metaServer switchover`; --force goes on all the same"
        )
    complain(f"{text}; going on, as --force says. Whatever it still takes is put into quarantine later")


def _living(beyond: Sequence[str], tell: Callable[[str], None]) -> list[str]:
    """Who of those above the slave's master, which is a slave itself, answers."""
    found = []
    for address in beyond:
        try:
            ask_version(parse_address(address))
        except OSError as error:
            tell(f"{address}, above it in the chain, does not answer: {error}")
        else:
            found.append(f"{address}, above it in the chain, answers; have this slave `follow {address}`")
    return found


def describe_loss(report: dict[str, Any]) -> str:
    """For a person."""
    partitions = report["partitions"]
    unknown = "what the master had taken is not known, because the slave"
    if partitions is None:
        return f"{unknown} was not running"
    if not report["heard"]:
        return f"{unknown} has not reached it since it was started"
    behind = [found for found in partitions if found["missing_bytes"]]
    lines = []
    if behind:
        rows = [["topic", "partition", "own end", "master's end", "bytes missing", "messages"]]
        rows += [
            [
                found["topic"],
                str(found["partition"]),
                str(found["end_offset"]),
                str(found["master_end_offset"]),
                str(found["missing_bytes"]),
                f"~{found['missing_messages']}",
            ]
            for found in behind
        ]
        lines.append(table(rows, right=frozenset({1, 2, 3, 4, 5})))
    size = sum(found["missing_bytes"] for found in behind)
    messages = sum(found["missing_messages"] for found in behind if found["topic"] not in INTERNAL_TOPICS)
    lines.append(
        f"missing of what was known: {describe_bytes(size)}, about {count_of(messages, 'message')}, in "
        f"{len(behind)} of {count_of(len(partitions), 'partition')}"
    )
    if beyond := report.get("beyond"):
        lines.append(
            f"it followed {report['master']}, a slave of {beyond[0]}: what that one had not copied is "
            "missing too"
        )
    lines.append(
        f"last heard from the master at {report['heard']}: what it took after that may be missing too"
    )
    return "\n".join(lines)
