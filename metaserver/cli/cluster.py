"""Which registry a verb asks for the brokers, and a session with it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import attrs
import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.installation import find_installation
from metaserver.cli.options import server_file_option
from metaserver.cli.output import Failure, complain
from metaserver.cli.target import address_of
from metaserver.names import is_valid_topic
from metaserver.registry.paths import BrokerPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path
    from typing import Any

    from metaserver.client import Partition, Session
    from metaserver.client.groups import Group
    from metaserver.client.profile import Profile

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_DISCOVERY_SECONDS = 5.0

servers_option = click.option(
    "--servers",
    metavar="URL",
    help="metaq://HOST:PORT,… or zookeeper://HOST:PORT,…/CHROOT; without it the broker of server.ini.",
)
root_option = click.option("--root", metavar="PATH", help="zk.zkRoot of the brokers.  [default: /meta]")


_PROFILE = "metaserver.profile"


def _keep_profile(context: click.Context, _option: click.Parameter, name: str | None) -> None:
    context.meta[_PROFILE] = name


profile_option = click.option(
    "--profile",
    metavar="NAME",
    expose_value=False,
    callback=_keep_profile,
    help="Servers and options of [profiles.NAME] in client.toml.",
)


class Choice(NamedTuple):
    """Where the brokers of a cluster are found."""

    servers: str
    root: str
    profile: Profile | None = None
    """Further options of a client."""


def cluster_arguments(function: _Function) -> _Function:
    """``[--servers URL] [--profile NAME] [--root PATH] [-f FILE]``: which cluster a verb is for."""
    return servers_option(profile_option(root_option(server_file_option(function))))


def chosen_profile() -> Profile | None:
    """What ``--profile`` names; raises ConfigError."""
    meta = click.get_current_context().meta
    found: str | Profile | None = meta.get(_PROFILE)
    if isinstance(found, str):
        from metaserver.client.profile import load_profile

        # Read once, however often a verb asks.
        found = meta[_PROFILE] = load_profile(found)
    return found


def chosen_cluster(servers: str | None, root: str | None, server_file: Path | None) -> Choice:
    """What :func:`cluster_arguments` has read; without it, the cluster that the installation's broker is in.

    Raises ConfigError, and Failure where that broker is in none.
    """
    profile = chosen_profile()
    if profile is not None:
        return Choice(servers or profile.servers, root or profile.session.root, profile)
    if servers is not None:
        from metaserver.client.servers import ROOT_DEFAULT, Servers
        from metaserver.errors import ConfigError

        try:
            Servers.parse(servers)
        except ConfigError as error:  # A mistake of the command, not of a file.
            raise Failure(str(error), ExitCode.USAGE) from error
        return Choice(servers, root or ROOT_DEFAULT)
    from metaserver.config import load_server_config

    installation = find_installation(server_file)
    zookeeper = load_server_config(installation.server_file, lenient=True).zookeeper
    root = root or zookeeper.root
    if not zookeeper.enable:
        raise Failure(
            f"{installation.server_file}: zk.zkEnable is false, so its broker is in no registry; "
            "name a registry with --servers, or one broker with --server HOST:PORT",
            ExitCode.USAGE,
        )
    if zookeeper.connect is not None:
        return Choice(f"zookeeper://{zookeeper.connect}", root)
    return Choice(f"metaq://{address_of(installation)}", root)


@asynccontextmanager
async def opened(choice: Choice) -> AsyncIterator[Session]:
    """A session with the cluster; raises ClientError, and Failure where the registry does not answer."""
    from metaserver.client import SessionOptions, open_session
    from metaserver.errors import DiscoveryError

    options = SessionOptions(root=choice.root, discovery_seconds=_DISCOVERY_SECONDS)
    if choice.profile is not None:
        options = attrs.evolve(choice.profile.session, root=choice.root)
    try:
        with _warnings_as_complaints():
            async with open_session(choice.servers, options) as session:
                yield session
    except DiscoveryError as error:
        # Of metaq:// the error has said already what can be done.
        advice = "" if choice.servers.startswith("metaq:") else "; start it, or name another with --servers"
        raise Failure(f"{error}{advice}", ExitCode.UNREACHABLE) from error


async def known_partitions(session: Session, topic: str) -> tuple[Partition, ...]:
    """The partitions of a topic; raises Failure where no broker announces it, and DiscoveryError."""
    found = await session.partitions(topic)
    if not found:
        raise unknown_topic(session, topic)
    return found


def how_to_make(topic: str) -> str:
    """A topic that a broker does not have."""
    return (
        f"a broker takes the topics of its server.ini: write [topic={topic}] into it, and type "
        "`metaServer reload`"
    )


def unknown_topic(session: Session, topic: str) -> Failure:
    """That no broker announces it."""
    where = describe_registry(session.network.discovery.servers.connect, session.options.root)
    return Failure(
        f"no broker announces topic {topic!r} {where}; "
        "`metaServer topics --cluster` lists those that are announced"
    )


def describe_registry(servers: str, root: str) -> str:
    """Where something was looked for; what is not there may be below another root."""
    return f"below {root} in the registry of {servers}"


async def known_group(session: Session, name: str) -> Group:
    """The group; raises Failure where the registry knows none of this name, and DiscoveryError."""
    from metaserver.client.groups import read_group

    discovery = session.network.discovery
    group = await read_group(discovery, name)
    if group is None:
        where = describe_registry(discovery.servers.connect, session.options.root)
        raise Failure(f"there is no group {name!r} {where}; `metaServer groups` lists them")
    return group


def check_topic(topic: str) -> None:
    """Raises Failure where it is no name of a topic."""
    if not is_valid_topic(topic):
        raise Failure(
            f"{topic!r} is no topic: a topic is printable ASCII without blank and slash", ExitCode.USAGE
        )


def parse_cluster_partition(text: str) -> BrokerPartition:
    """``B-P``; raises Failure."""
    parsed = BrokerPartition.parse(text)
    if parsed is None:
        raise Failure(
            f"{text!r} is no partition of a cluster; write BROKER-PARTITION, like 0-3", ExitCode.USAGE
        )
    return parsed


def check_group(group: str) -> None:
    """Raises Failure where it is no name of a group."""
    from metaserver.client.consumer import check_group as check
    from metaserver.errors import ConfigError

    try:
        check(group)
    except ConfigError as error:
        raise Failure(str(error), ExitCode.USAGE) from error


@contextmanager
def _warnings_as_complaints() -> Iterator[None]:
    """What the client library warns of is said as everything else; kazoo's own words tell a user nothing."""
    handler, silence = _Complaints(logging.WARNING), logging.NullHandler()
    ours, kazoo = logging.getLogger("metaserver"), logging.getLogger("kazoo")
    ours.addHandler(handler)
    kazoo.addHandler(silence)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        kazoo.removeHandler(silence)


class _Complaints(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg
        if not isinstance(event, dict):
            complain(record.getMessage())
            return
        reason = event.get("reason")
        complain(f"{event.get('event')}: {reason}" if reason else str(event.get("event")))
