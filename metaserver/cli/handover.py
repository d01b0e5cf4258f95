"""A planned change between two machines: each side waits for what it can see of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaserver.cli.administration import query_stats
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.follow import decide_to_follow
from metaserver.cli.output import Failure, say
from metaserver.cli.processes import ask
from metaserver.cli.role_change import ask_version, start_again, start_options, stop_if_running, within
from metaserver.errors import ClientError
from metaserver.node.handover import HANDED_OVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.cli.installation import Installation
    from metaserver.cli.target import Address

_SEAL_SECONDS = 20.0
_EQUAL_SECONDS = 10.0
_TAKE_OVER_SECONDS = 120.0
_STOP_SECONDS = 30.0
_START_SECONDS = 60.0


def hand_over_to(master: Installation, slave: Address, slave_id: int) -> None:
    """The master's side: seal, wait for the slave, give up the place, and follow. Raises Failure.

    From the moment it has given up its place it takes no messages, whatever becomes of the other side.
    """
    if not _is_slave(slave):
        raise Failure(f"no slave answers at {slave}; nothing was changed", ExitCode.UNREACHABLE)
    options = start_options(master)
    ends = ask(master, "seal", seconds=_SEAL_SECONDS)["ends"]
    if not within(_EQUAL_SECONDS, lambda: _has_all(slave, ends)):
        ask(master, "unseal")
        raise Failure(
            f"the slave did not get everything within {_EQUAL_SECONDS:g} s; the master goes on",
            ExitCode.TIMEOUT,
        )
    ends = ask(master, "step-down")["ends"]
    if not within(_EQUAL_SECONDS, lambda: _has_all(slave, ends)):
        raise Failure(
            "the slave did not get the end of the registry, and no messages are taken: `metaServer restart` "
            "makes this node the master again",
            ExitCode.TIMEOUT,
        )
    say(f"{slave} has everything; it is waited for, by `metaServer promote --after-handover` on its machine")
    if not within(_TAKE_OVER_SECONDS, lambda: not _is_slave(slave)):
        raise Failure(
            f"{slave} did not take over within {_TAKE_OVER_SECONDS:g} s, and no messages are taken: type the "
            "command there, and `metaServer follow` here; or `metaServer restart` here, to be master again",
            ExitCode.TIMEOUT,
        )
    stop_if_running(master, _STOP_SECONDS, is_hurried=True)
    say("the old master has stopped")
    decide_to_follow(master, slave, slave_id)
    start_again(master, options, _START_SECONDS)


def wait_for_handover(master: Address, limit_seconds: float) -> None:
    """The slave's side: until the master says that it has given up its place. Raises Failure."""

    def has_handed_over() -> bool:
        try:
            return HANDED_OVER in ask_version(master).split()
        except OSError:
            return False

    if not within(limit_seconds, has_handed_over):
        raise Failure(
            f"the master {master} did not hand over within {limit_seconds:g} s; nothing was changed",
            ExitCode.TIMEOUT,
        )


def _is_slave(address: Address) -> bool:
    """Whether a slave answers there; a broker that is just ending is none."""
    try:
        return "slave true" in query_stats(address, "").splitlines()
    except ClientError:
        return False


def _has_all(slave: Address, ends: Sequence[dict[str, Any]]) -> bool:
    try:
        lines = query_stats(slave, "offsets").splitlines()
    except ClientError:
        return False
    own = {(words[0], words[2]): int(words[6]) for line in lines if len(words := line.split(" ")) == 7}
    return all(own.get((end["topic"], str(end["partition"])), 0) == end["end_offset"] for end in ends)
