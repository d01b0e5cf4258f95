"""Whom a slave's master follows itself: the chain of nodes up to the master, as each tells the next.

Every broker has a random name for the life of its process, its instance. A slave tells in ``stats`` who is
above it, nearest first; whoever finds itself among those above its master has been put into a circle.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOPS_MAX = 16
"""Told and believed: a circle of others, which this node has no part in, would make it longer each second."""


@attrs.frozen
class Hop:
    """A node above a slave, as the node right below it knows it."""

    address: str
    """``HOST:PORT``, as the node below reaches it."""
    instance: str
    """Of its process; ``-`` for a broker that has none (MetaQ)."""
    is_slave: bool
    is_connected: bool
    """Whether the node below has a connection to it now."""
    lag_bytes: int
    """What the node below lacks of it."""

    @property
    def role(self) -> str:
        """In a word."""
        return "slave" if self.is_slave else "master"


@attrs.define
class CircleError(ClientError):
    """A slave follows itself, perhaps through others."""

    address: str
    through: tuple[str, ...]

    def __str__(self) -> str:
        """Who follows whom, and what to do."""
        if not self.through:
            return (
                f"{self.address} is this slave itself, under another name: nothing is copied. Write the "
                "address of its master"
            )
        circle = " -> ".join(("this slave", *self.through, "this slave"))
        return (
            f"{self.address} follows this slave itself ({circle}): nothing is copied, for none of them is a "
            "master. Promote one of them, or have one follow the master"
        )


def format_chain(hops: Sequence[Hop]) -> str:
    """For a line of ``stats``: words ``ADDRESS,INSTANCE,ROLE,LINK,LAG``."""
    return " ".join(
        f"{hop.address},{hop.instance},{hop.role},{'up' if hop.is_connected else 'down'},{hop.lag_bytes}"
        for hop in hops[:_HOPS_MAX]
    )


def parse_chain(text: str) -> tuple[Hop, ...]:
    """What :func:`format_chain` has written, as far as it is that."""
    hops = []
    for word in text.split()[:_HOPS_MAX]:
        address, *rest = word.split(",")
        match rest:
            case [instance, "slave" | "master" as role, "up" | "down" as link, lag] if (
                lag.isascii() and lag.isdigit()
            ):
                hops.append(Hop(address, instance, role == "slave", link == "up", int(lag)))
            case _:
                break
    return tuple(hops)


def check_circle(own_instance: str, hops: Sequence[Hop]) -> None:
    """Of the nodes above the one that asks, nearest first; raises CircleError where it is among them."""
    for index, hop in enumerate(hops):
        if hop.instance == own_instance:
            raise CircleError(hops[0].address, tuple(above.address for above in hops[:index]))


def chain_problem(hops: Sequence[Hop]) -> str:
    """Why what a slave copies may be old, beyond its own connection; blank where nothing is known."""
    if not hops:
        return ""
    for below, hop in pairwise(hops):
        if not hop.is_connected:
            return f"{below.address} is not connected to its master {hop.address}: what that has comes late"
    last = hops[-1]
    if last.is_slave:
        return f"{last.address} is a slave and has found no master: nothing new comes from it"
    return ""
