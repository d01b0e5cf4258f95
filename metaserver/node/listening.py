"""The addresses of a node: what it listens on, and what it tells others."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import attrs

from metaserver.broker import open_listener
from metaserver.client.servers import format_address
from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from metaserver.config import ServerConfig

_EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@attrs.define
class NodeError(MetaServerError):
    """The node cannot start."""

    reason: str

    def __str__(self) -> str:
        """The reason."""
        return self.reason


def listen(config: ServerConfig, port: int, key: str) -> socket.socket:
    """Listen at a port that a key of the configuration has given. Raises NodeError."""
    try:
        return open_listener(config.bind_address, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            advice = "bindAddress must be an address of this machine; 0.0.0.0 is all of them"
        elif error.errno == errno.EACCES:
            advice = f"ports below 1024 are for root, mostly; choose another {key}"
        else:
            advice = f"choose another {key}, or stop what uses this one"
        where = format_address(config.bind_address, port)
        raise NodeError(f"cannot listen on {where}: {error.strerror or error}; {advice}") from error


def advertised_host(config: ServerConfig) -> str:
    """``hostName``, or the address bound to, or the first address of this machine that is not loopback."""
    if config.host_name:
        return config.host_name
    if config.bind_address not in _EVERY_INTERFACE:
        return bracketed(config.bind_address)
    # Connecting a datagram socket sends nothing; it only chooses the address that would be used.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def own_host(config: ServerConfig) -> str:
    """Where this process reaches what it listens on."""
    if config.bind_address not in _EVERY_INTERFACE:
        return bracketed(config.bind_address)
    return "[::1]" if ":" in config.bind_address else "127.0.0.1"


def own_addresses(config: ServerConfig, host: str) -> frozenset[tuple[str, int]]:
    """All by which a node that tells others ``host`` can be reached; IPv6 without brackets."""
    names = {host, own_host(config)}
    if not names.isdisjoint(("127.0.0.1", "[::1]")):
        names.add("localhost")
    return frozenset((name.strip("[]"), config.server_port) for name in names)


def bracketed(host: str) -> str:
    """As it stands in front of a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
