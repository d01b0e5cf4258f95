"""Where a client begins: ``zookeeper://HOST:PORT,…/CHROOT`` or ``metaq://HOST:PORT,…``."""

from __future__ import annotations

import attrs

from metaserver.errors import ConfigError
from metaserver.names import parse_digits

ROOT_DEFAULT = "/meta"
_ZOOKEEPER = "zookeeper"
_METAQ = "metaq"
_PORT_MAX = 65535


@attrs.frozen
class Servers:
    """Whom to ask for the brokers."""

    is_zookeeper: bool
    """False: brokers, one of which hosts the registry or knows who does."""
    addresses: tuple[tuple[str, int], ...]
    chroot: str = ""
    """What stands in front of every path in ZooKeeper."""

    @property
    def connect(self) -> str:
        """``HOST:PORT,HOST:PORT``."""
        return ",".join(format_address(host, port) for host, port in self.addresses)

    @classmethod
    def parse(cls, text: str) -> Servers:
        """Raises ConfigError that says what is wrong and what would be right."""
        scheme, separator, rest = text.strip().partition("://")
        if not separator or scheme not in (_ZOOKEEPER, _METAQ):
            raise _wrong(text, "it must begin with zookeeper:// or metaq://")
        hosts, slash, path = rest.partition("/")
        if slash and path and scheme == _METAQ:
            raise _wrong(text, "metaq:// takes no path")
        addresses = tuple(_address(text, part) for part in hosts.split(","))
        return cls(scheme == _ZOOKEEPER, addresses, f"/{path}".rstrip("/") if path else "")


def format_address(host: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str, part: str) -> tuple[str, int]:
    host, colon, port = part.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    number = parse_digits(port, _PORT_MAX)
    if not colon or not host or not number:
        raise _wrong(text, f"{part.strip()!r} is no HOST:PORT with a port from 1 to {_PORT_MAX}")
    return host, number


def _wrong(text: str, reason: str) -> ConfigError:
    example = "write zookeeper://HOST:2181,HOST:2181 or metaq://HOST:8123"
    return ConfigError((f"servers {text!r}: {reason}; {example}",))
