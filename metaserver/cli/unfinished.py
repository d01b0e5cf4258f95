"""A change of roles that ends too early leaves nobody without a word about what is there now."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from metaserver.cli.output import Failure, complain
from metaserver.cli.processes import find_node
from metaserver.cli.signals import terminated_as_interrupted
from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaserver.cli.installation import Installation
    from metaserver.cli.target import Address


@contextmanager
def unfinished(describe: Callable[[], str]) -> Iterator[None]:
    """Whatever ends the block early, also Control-C and SIGTERM: it is said what is there, and what to type.

    ``describe`` looks for it then; blank where there is nothing to say.
    """
    with terminated_as_interrupted():
        try:
            yield
        except Failure as error:
            text = "\n".join(filter(None, (error.message, _described(describe))))
            raise Failure(text, error.code) from error
        except BaseException:
            if text := _described(describe):
                complain(text)
            raise


def _described(describe: Callable[[], str]) -> str:
    try:
        return describe()
    except (Failure, MetaServerError, OSError) as error:
        return f"`metaServer status` says what there is now; this command could not find out: {error}"


def describe_given_up(master: Installation, slave: Address) -> str:
    """What a master is that hands its place to a slave on another machine."""
    suffix = master.verb_suffix
    follow = f"`metaServer follow {slave}{suffix}`"
    node = find_node(master)
    if not node.is_running:
        return f"the old master is stopped: {follow} makes it the slave of {slave}"
    if node.status is None or not node.status.get("handed_over"):
        return ""
    return (
        f"this node has given up its place and takes no messages. Type {follow} when {slave} is master, or "
        f"`metaServer restart{suffix}`, to be master again, when it is not"
    )
