"""A planned change between two machines: each side waits for what it can see of the other."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from metaserver.cli.administration import query_stats
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.follow import decide_to_follow
from metaserver.cli.output import Failure, say
from metaserver.cli.processes import ask
from metaserver.cli.role_change import (
    PATIENT_LOOK_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    ask_version,
    start_again,
    start_options,
    stop_if_running,
    within,
)
from metaserver.cli.unfinished import describe_given_up, unfinished
from metaserver.client.comparison import parse_ranges
from metaserver.errors import ClientError, ControlError
from metaserver.node.handover import HANDED_OVER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metaserver.cli.installation import Installation
    from metaserver.cli.target import Address

_SEAL_SECONDS = 20.0
"""After that the master takes messages again, should this command have died."""
_EQUAL_SECONDS = 10.0
_TAKE_OVER_SECONDS = 120.0


def hand_over_to(master: Installation, slave: Address, slave_id: int) -> None:
    """The master's side: seal, wait for the slave, give up the place, and follow. Raises Failure.

    From the moment it has given up its place it takes no messages, whatever becomes of the other side, and
    of this command: where it ends early it says so.
    """
    with unfinished(partial(describe_given_up, master, slave)):
        _hand_over_to(master, slave, slave_id)


def _hand_over_to(master: Installation, slave: Address, slave_id: int) -> None:
    if not _is_slave(slave):
        raise Failure(f"no slave answers at {slave}; nothing was changed", ExitCode.UNREACHABLE)
    options = start_options(master)
    if not seal_and_copy(master, partial(_has_all, slave)):
        raise Failure("the slave did not get the end of the registry", ExitCode.TIMEOUT)
    # Where this node is a slave by its files, the other one is a master by its own.
    word = " local" if master.is_slave else ""
    command = f"`metaServer promote{word} --after-handover` on its machine"
    say(f"{slave} has everything; it is waited for, by {command}")
    sys.stdout.flush()
    if not within(_TAKE_OVER_SECONDS, lambda: not _is_slave(slave), PATIENT_LOOK_SECONDS):
        raise Failure(
            f"{slave} did not take over within {_TAKE_OVER_SECONDS:g} s, by {command}", ExitCode.TIMEOUT
        )
    stop_if_running(master, STOP_SECONDS, is_hurried=True)
    say("the old master has stopped")
    decide_to_follow(master, slave, slave_id)
    start_again(master, options, START_SECONDS)


def wait_for_handover(master: Address, limit_seconds: float) -> None:
    """The slave's side: until the master says that it has given up its place. Raises Failure."""

    def has_handed_over() -> bool:
        try:
            return HANDED_OVER in ask_version(master).split()
        except OSError:
            return False

    if not within(limit_seconds, has_handed_over, PATIENT_LOOK_SECONDS):
        raise Failure(
            f"the master {master} did not hand over within {limit_seconds:g} s; nothing was changed",
            ExitCode.TIMEOUT,
        )


def seal_and_copy(master: Installation, has_all: Callable[[Sequence[dict[str, Any]]], bool]) -> bool:
    """Returns when the master can take nothing more: whether the slave has all, the end of the registry too.

    Raises Failure where it did not get the messages in time, and the master goes on; so it does where this
    is cancelled before the master has given up its place.
    """
    try:
        _seal(master, has_all)
    except BaseException:
        # A master that has given up its place before stays as it is.
        with suppress(Failure, ControlError):
            ask(master, "unseal")
        raise
    last_ends = ask(master, "step-down")["ends"]
    return within(_EQUAL_SECONDS, lambda: has_all(last_ends))


def _seal(master: Installation, has_all: Callable[[Sequence[dict[str, Any]]], bool]) -> None:
    ends = ask(master, "seal", seconds=_SEAL_SECONDS)["ends"]
    if not within(_EQUAL_SECONDS, lambda: has_all(ends)):
        raise Failure(
            f"the slave did not get everything within {_EQUAL_SECONDS:g} s; the master goes on",
            ExitCode.TIMEOUT,
        )


def reaches(own: Mapping[tuple[str, int], int], ends: Sequence[dict[str, Any]]) -> bool:
    """Whether the ends of the slave's partitions are these; one that is empty need not be there."""
    return all(own.get((end["topic"], end["partition"]), 0) == end["end_offset"] for end in ends)


def _is_slave(address: Address) -> bool:
    """Whether a slave answers there; a broker that is just ending is none."""
    try:
        return "slave true" in query_stats(address, "").splitlines()
    except ClientError:
        return False


def _has_all(slave: Address, ends: Sequence[dict[str, Any]]) -> bool:
    try:
        ranges = parse_ranges(query_stats(slave, "offsets"))
    except ClientError:
        return False
    return reaches({(name.topic, name.partition): span.end for name, span in ranges.items()}, ends)
