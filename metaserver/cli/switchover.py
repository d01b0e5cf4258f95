"""switchover: master and slave of one installation change places, and nothing acknowledged is lost."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.follow import decide_to_follow
from metaserver.cli.handover import hand_over_to, reaches, seal_and_copy
from metaserver.cli.installation import find_installation
from metaserver.cli.options import chosen_node, node_arguments, slave_id_option
from metaserver.cli.output import Failure, complain, describe_seconds, say
from metaserver.cli.processes import Ending, ask, find_node
from metaserver.cli.role_change import (
    START_SECONDS,
    STOP_SECONDS,
    prepare,
    promotion_text,
    role_of,
    start_again,
    start_options,
    stop_if_running,
    wait_registered,
    within,
)
from metaserver.cli.target import parse_address
from metaserver.cli.unfinished import unfinished
from metaserver.errors import ControlError, MetaServerError
from metaserver.node.role import Decision, forget_decision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.cli.installation import Installation
    from metaserver.cli.processes import Launch
    from metaserver.node.role import Role

_CLOSE_BYTES = 1024 * 1024
"""The slave is to be no further behind before the master is sealed."""
_CATCH_UP_SECONDS = 60.0
_REGISTER_SECONDS = 60.0


class Pair(NamedTuple):
    """Who is what now."""

    master: Installation
    slave: Installation
    address: str
    """Of the master."""
    slave_address: str
    master_options: tuple[str, ...]
    slave_options: tuple[str, ...]
    """With what each is started again."""


@click.command()
@node_arguments
@click.option(
    "--timeout",
    "catch_up_seconds",
    type=float,
    default=_CATCH_UP_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait until the slave is nearly as far as the master.",
)
@click.option(
    "--to",
    "to_address",
    metavar="HOST:PORT",
    help="The slave, where it runs on another machine: type `promote --after-handover` there before.",
)
@slave_id_option("With --to: the old master's number among the slaves of the new one.")
def switchover(
    *,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    catch_up_seconds: float,
    to_address: str | None,
    slave_id: int,
) -> None:
    """Let the master and the slave of this installation change places.

    The master takes no more messages (503, which clients try again), the slave copies the rest and
    starts as master, and the old master as its slave. Both keep their ports, data and names. With --to
    it is one node that hands its place over, the master or, with `slave`, a promoted slave.
    """
    if to_address is not None:
        hand_over_to(chosen_node(role, server_file, plug_ins), parse_address(to_address), slave_id)
        return
    if role:
        raise Failure(f"{role!r} is for --to: here both nodes change places", ExitCode.USAGE)
    pair = find_pair(server_file, plug_ins)
    with unfinished(partial(_describe_left, pair)):
        _change(pair, catch_up_seconds)


def _change(pair: Pair, catch_up_seconds: float) -> None:
    before = role_of(pair.slave)
    _wait_until_close(pair, catch_up_seconds)
    prepared = prepare(pair.slave, pair.slave_options)
    try:
        began = time.monotonic()
        _seal_and_copy(pair, before)
        ending = Ending(pair.master, is_hurried=True)
    except BaseException:
        prepared.cancel()
        raise
    address = _change_places(pair, before, prepared, ending)
    paused_seconds = time.monotonic() - began
    ending.wait(STOP_SECONDS)
    say("the old master has stopped")
    slave_id = 0 if before.overlay is None else before.overlay.slave_id
    decide_to_follow(pair.master, parse_address(address), slave_id)
    start_again(pair.master, pair.master_options, START_SECONDS)
    problem = wait_registered(pair.slave, _REGISTER_SECONDS)
    if problem:
        raise Failure(f"the new master stands in no registry yet: {problem}", ExitCode.TIMEOUT)
    say(f"master is {address} now; no messages were taken for {describe_seconds(paused_seconds)}")


def find_pair(server_file: Path | None, plug_ins: tuple[str, ...]) -> Pair:
    """The two nodes of the installation, both running; raises Failure where that is not what there is."""
    nodes = [find_installation(server_file), chosen_node("slave", server_file, plug_ins)]
    roles: dict[str, Installation] = {}
    addresses: dict[str, str] = {}
    for node in nodes:
        found = find_node(node)
        if found.status is not None:
            role = str(found.status["role"])
            roles[role], addresses[role] = node, str(found.status["address"])
    if roles.keys() != {"master", "slave"}:
        running = " and ".join(f"a {role}" for role in roles) or "nothing"
        raise Failure(
            f"for {nodes[0].server_file} there is {running} running; a switchover is between a master and a "
            "slave that both run here. On two machines: `metaServer promote --after-handover` on the "
            "slave's, then `metaServer switchover --to HOST:PORT` on the master's",
            ExitCode.NOT_RUNNING,
        )
    master, slave, address = roles["master"], roles["slave"], addresses["master"]
    replication = ask(slave, "slave-status")
    if replication["master"].rpartition(":")[2] != address.rpartition(":")[2] or not replication["connected"]:
        raise Failure(
            f"the slave follows {replication['master']} and is not connected to the master {address}"
        )
    return Pair(master, slave, address, addresses["slave"], start_options(master), start_options(slave))


def _describe_left(pair: Pair) -> str:
    """What there is where a change has ended early, and what to type; blank where nothing is amiss."""
    master, slave = find_node(pair.master), find_node(pair.slave)
    old, new = pair.master.verb_suffix, pair.slave.verb_suffix
    if role_of(pair.slave).slave_config is None:
        if master.status is not None and slave.status is not None and master.status["role"] == "slave":
            return ""
        start = "" if slave.is_running else f"`metaServer start{new}`, and then "
        return (
            f"{pair.slave_address} is master from now on; the old one does not "
            f"follow it yet. Type {start}`metaServer follow {pair.slave_address}{old}`"
        )
    if master.status is not None and not master.status["handed_over"]:
        return ""
    starts = "" if slave.is_running else f", and then `metaServer start{new}`"
    return (
        "the master has given up its place, and no messages are taken. Type "
        f"`metaServer restart{old}`, and it is master again{starts}"
    )


def _wait_until_close(pair: Pair, limit_seconds: float) -> None:
    def is_close() -> bool:
        status = ask(pair.slave, "slave-status")
        stopped = [found for found in status["details"] if found["reason"]]
        if stopped:
            name = f"{stopped[0]['topic']}-{stopped[0]['partition']}"
            raise Failure(f"replication of {name} has stopped: {stopped[0]['reason']}; nothing was changed")
        return bool(status["connected"]) and status["lag_bytes"] <= _CLOSE_BYTES

    if not within(limit_seconds, is_close):
        raise Failure(
            f"the slave is still far behind after {limit_seconds:g} s; nothing was changed", ExitCode.TIMEOUT
        )


def _seal_and_copy(pair: Pair, before: Role) -> None:
    """Returns when the slave has everything, and the master can take nothing more; raises Failure."""
    if not seal_and_copy(pair.master, partial(_has_all, pair.slave)):
        ending = Ending(pair.master, is_hurried=True)
        _go_back(pair, before, ending, "the slave did not get the end of the registry")


def _change_places(pair: Pair, before: Role, prepared: Launch, ending: Ending) -> str:
    """Start the slave as master while the old one is ending; where it answers."""
    try:
        try:
            stop_if_running(pair.slave, STOP_SECONDS, is_hurried=True)
            _decide(pair, before)
        except BaseException:
            prepared.cancel()
            raise
        return str(start_again(pair.slave, pair.slave_options, START_SECONDS, prepared)["address"])
    except (Failure, MetaServerError, OSError) as error:
        _go_back(pair, before, ending, f"the slave did not start as master: {error}")
        raise


def _decide(pair: Pair, before: Role) -> None:
    host, port = parse_address(pair.address)
    report = {"master": pair.address, "switchover": True, "partitions": []}
    promotion = role_of(pair.master).promotion
    moment = promotion_text("" if promotion is None else promotion.time)
    Decision(role="master", master_host=host, master_port=port, time=moment, report=report).save(
        before.config.data_path
    )


def _go_back(pair: Pair, before: Role, ending: Ending, reason: str) -> None:
    """The old master again; always raises."""
    complain(f"{reason}; starting the old master again")
    try:
        ending.wait(STOP_SECONDS)
        start_again(pair.master, pair.master_options, START_SECONDS)
    finally:
        # Behind it: nothing of the slave's is to keep the master away.
        if before.decision is None:
            forget_decision(before.config.data_path)
        else:
            before.decision.save(before.config.data_path)
    if find_node(pair.slave).is_running:
        suffix = pair.slave.verb_suffix
        complain(f"the slave runs as before, or is still ending: `metaServer status{suffix}` tells")
    else:
        start_again(pair.slave, pair.slave_options, START_SECONDS)
    raise Failure("nothing was changed, but the master was away for a moment")


def _has_all(slave: Installation, ends: Sequence[dict[str, Any]]) -> bool:
    """Whether the slave has, safely, everything up to these ends."""
    try:
        status = ask(slave, "slave-status")
    except ControlError:
        return False
    own = {(found["topic"], found["partition"]): found["end_offset"] for found in status["details"]}
    return reaches(own, ends)
