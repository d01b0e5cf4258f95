"""Which broker ``produce``, ``consume``, ``stats`` and ``topics`` talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.installation import find_installation
from metaserver.cli.output import Failure
from metaserver.names import parse_digits

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.installation import Installation
    from metaserver.config import ServerConfig

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_PORT_MAX = 65535
_SHOWN_MAX = 80
_ASKED = "metaserver.installation"
"""In the context of a command: whose broker it talks to."""

server_option = click.option(
    "--server", metavar="HOST:PORT", help="The broker; without it the one of server.ini."
)


class Address(NamedTuple):
    """Where a broker answers."""

    host: str
    port: int

    def __str__(self) -> str:
        """``HOST:PORT``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``HOST:PORT`` or ``[ADDRESS]:PORT``; raises Failure."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    number = parse_digits(port, _PORT_MAX)
    if not colon or not host or not number:
        reason = "is no address of a broker"
        if colon and host and port.isascii() and port.isdigit():
            reason = f"has a port that is not in 1 to {_PORT_MAX}"
        raise Failure(f"{_shortened(text)!r} {reason}; write HOST:PORT", ExitCode.USAGE)
    return Address(host, number)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def config_of(installation: Installation) -> ServerConfig:
    """What the files of a node say; raises ConfigError."""
    from metaserver.cli.node_files import load_slave
    from metaserver.config import apply_slave, load_server_config

    # What the broker refuses at its start is not the concern of who only wants its port, or its folders.
    config = load_server_config(installation.server_file, lenient=True)
    slave = load_slave(installation, is_lenient=True)
    return config if slave is None else apply_slave(config, slave)


def address_of(installation: Installation) -> Address:
    """Where the node of these files answers, from this machine.

    Raises ConfigError, and Failure where the files leave the port to chance and no node is running.
    """
    from metaserver.cli.processes import ask

    config = config_of(installation)
    if (context := click.get_current_context(silent=True)) is not None:
        context.meta[_ASKED] = installation
    host = "127.0.0.1" if config.bind_address in _WILDCARDS else config.bind_address
    if config.server_port:
        return Address(host, config.server_port)
    return Address(host, int(str(ask(installation, "status")["address"]).rpartition(":")[2]))


def explain_unreachable(context: click.Context) -> None:
    """Behind the complaint of a verb that has reached nobody: the remedy, where its broker is one of ours."""
    installation: Installation | None = context.meta.get(_ASKED)
    if installation is not None:
        from metaserver.cli.processes import find_node, not_running

        if not find_node(installation).is_running:
            not_running(installation).show()


def chosen_address(server: str | None, server_file: Path | None, *, is_slave: bool) -> Address:
    """The address that was given, or that of the installation; raises what :func:`address_of` raises."""
    if server is not None:
        return parse_address(server)
    return address_of(find_installation(server_file, is_slave=is_slave))
