"""follow: a node becomes the slave of a master, whatever it was before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import chosen_node, node_arguments, slave_id_option
from metaserver.cli.output import Failure, complain, count_of, say
from metaserver.cli.processes import ask, find_node
from metaserver.cli.role_change import (
    START_SECONDS,
    STOP_SECONDS,
    ask_version,
    promotion_of,
    promotion_text,
    role_of,
    start_again,
    start_options,
    stop_if_running,
    upstream_of,
    within,
)
from metaserver.cli.target import Address, parse_address
from metaserver.node.listening import advertised_host, own_addresses
from metaserver.node.role import Decision, forget_decision

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.installation import Installation

_CLEAR_SECONDS = 10.0
_UNCLEAR = ("probing", "reconciling", "checking")
"""States of a partition in which more of it may be given up."""


@click.command()
@click.argument("master", metavar="HOST:PORT")
@node_arguments
@slave_id_option("Of a node that was a master: its number among the slaves of the new one.")
@click.option("--force", "forces", is_flag=True, help="Also where no broker answers there now.")
def follow(
    *,
    master: str,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    slave_id: int,
    forces: bool,
) -> None:
    """Make a node the slave of the master at HOST:PORT, and keep it that over restarts.

    For an old master that comes back, and for a promoted slave that steps back (`slave`). It keeps its
    ports and its data; what the master does not have of it goes into quarantine.
    """
    installation = chosen_node(role, server_file, plug_ins)
    address = parse_address(master)
    options = start_options(installation)
    _refuse_itself(installation, address)
    try:
        ask_version(address)
    except OSError as error:
        text = f"no broker answers at {master}: {error}"
        if not forces:
            raise Failure(f"{text}; --force goes on all the same", ExitCode.UNREACHABLE) from error
        complain(f"{text}; going on, as --force says")
    _check_circle(installation, address, forces=forces)
    if stop_if_running(installation, STOP_SECONDS):
        say(f"{installation.role} stopped")
    decide_to_follow(installation, address, slave_id)
    start_again(installation, options, START_SECONDS)
    _tell_what_was_given_up(installation)


def _refuse_itself(installation: Installation, master: Address) -> None:
    config = role_of(installation).config
    status = find_node(installation).status
    if status is not None:
        # Where the configuration leaves the port to chance, only the node knows it.
        config = attrs.evolve(config, server_port=parse_address(str(status["address"])).port)
    if (master.host, master.port) in own_addresses(config, advertised_host(config)):
        raise Failure(
            f"{master} is this node itself; name the address of its new master. Nothing was changed",
            ExitCode.USAGE,
        )


def _check_circle(installation: Installation, master: Address, *, forces: bool) -> None:
    """Raises Failure where the master follows this node itself, perhaps through others."""
    node = find_node(installation)
    own = "" if node.status is None else str(node.status.get("instance", ""))
    try:
        above = upstream_of(master)
    except OSError:
        return  # It does not answer, which has been said.
    if own and own in [hop.instance for hop in above]:
        text = f"{master} follows this node itself: one of the two must be master. Promote {master} first"
        if not forces:
            raise Failure(f"{text}; --force goes on all the same")
        complain(f"{text}; going on, as --force says")


def _tell_what_was_given_up(installation: Installation) -> None:
    """Wait a while until every partition has been compared with the master, and say what that has not."""
    found: list[dict[str, Any]] = []

    def is_clear() -> bool:
        status = ask(installation, "slave-status")
        found[:] = status["quarantine"]["since_start"]
        unclear = [replica for replica in status["details"] if replica["state"] in _UNCLEAR]
        return status["heard_seconds"] is not None and bool(status["connected"]) and not unclear

    if not within(_CLEAR_SECONDS, is_clear):
        complain("it has not compared everything with its master yet: see `metaServer slave-status`")
    for folder in found:
        say(f"the master does not have {count_of(folder['messages'], 'message')}: {folder['folder']}")
    if found:
        say("they are in quarantine: see `metaServer quarantine`")


def decide_to_follow(installation: Installation, master: Address, slave_id: int) -> None:
    """Note it in the data directory of a node that is stopped; nothing, where its files say the same.

    At a time behind the master's promotion, so that one of this node is later, whether it has met it or not.
    """
    before = role_of(installation)
    data_path = before.config.data_path
    named = before.overlay
    if installation.is_slave and named is not None and named.master_address == (master.host, master.port):
        forget_decision(data_path)
        return
    Decision(
        role="slave",
        master_host=master.host,
        master_port=master.port,
        time=promotion_text(promotion_of(master)),
        slave_id=slave_id,
    ).save(data_path)
