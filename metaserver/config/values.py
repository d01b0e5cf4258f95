"""One value: text in, the thing it means out, or ConfigError that says what would be right.

The errors know neither file nor key; whoever reads the file puts those in front.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Literal

from metaserver.config.expressions import evaluate
from metaserver.config.models import DeletePolicy
from metaserver.config.text import BLANKS, excerpt, wrong
from metaserver.errors import ConfigError
from metaserver.names import AckLevel, Compression

if TYPE_CHECKING:
    from collections.abc import Callable

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MAX = 2**63 - 1

HOST_CHARACTERS_MAX = 253

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
_IPV4_LIKE = re.compile(r"[0-9.]+")
_IPV6 = re.compile(r"(?P<address>[0-9A-Fa-f:.]+)(?:%[A-Za-z0-9_.~-]+)?")
_AGE = re.compile(r"(?P<number>\d{1,9})(?P<unit>[hms]?)", re.ASCII)
_UNIT_SECONDS = {"": 3600, "h": 3600, "m": 60, "s": 1}
_WORD = re.compile(r"[!-~]+")


def integer(minimum: int, maximum: int = INT_MAX) -> Callable[[str], int]:
    """A reader of whole numbers in this range.

    MetaQ cuts results down to 32 bits for most keys, so that 2 GiB become a negative size; here the
    true value is compared with the range, and named.
    """

    def read(text: str) -> int:
        if text.isidentifier() and text not in {"true", "false"}:
            raise wrong(f"{excerpt(text)} is no number; write a whole one from {minimum} to {maximum}")
        value = evaluate(text)
        if isinstance(value, bool):
            raise wrong(f"{excerpt(text)} is a boolean; write a whole number")
        if not minimum <= value <= maximum:
            shown = str(value) if text == str(value) else f"{excerpt(text)} is {value}, which"
            wrapped = (value - INT_MIN) % 2**32 + INT_MIN
            trap = "" if value == wrapped or maximum > INT_MAX else f" (32 bits would make {wrapped} of it)"
            raise wrong(f"{shown} is not in {minimum} to {maximum}{trap}")
        return value

    return read


def boolean(text: str) -> bool:
    """An expression that is true or false."""
    value = evaluate(text)
    if not isinstance(value, bool):
        raise wrong(f"{excerpt(text)} is a number; write true or false")
    return value


def lenient_boolean(text: str) -> bool:
    """True if the text is ``true`` in any case, false for everything else, as MetaQ reads a few keys."""
    return text.lower() == "true"


def compression(text: str) -> Compression:
    """Whether to compress."""
    try:
        return Compression(text)
    except ValueError:
        raise wrong(f"{excerpt(text)} is none of {', '.join(Compression)}") from None


def ack_level(text: str) -> AckLevel:
    """What a put waits for."""
    try:
        return AckLevel(text)
    except ValueError:
        raise wrong(f"{excerpt(text)} is no level; write one of {', '.join(AckLevel)}") from None


def path_text(text: str) -> str:
    """A path. Escapes are active in the file, so a control character in it is a mistake."""
    if any(character < " " or character == "\x7f" for character in text):
        raise wrong(
            f"{excerpt(text)} holds a control character; escapes are active, write \\\\ for a backslash"
        )
    return text


def word(text: str) -> str:
    """Printable ASCII without blanks: class and group names."""
    if not _WORD.fullmatch(text):
        raise wrong(f"{excerpt(text)} must be printable ASCII without blanks")
    return text


def advertised_host(text: str) -> str:
    """A host that clients can put into a URI: MetaQ's clients see no host at all in ``my_host``."""
    if text.startswith("[") and text.endswith("]") and _is_ipv6(text[1:-1]):
        return text
    if _is_ipv6(text):
        raise wrong(f"{excerpt(text)} is an IPv6 address without brackets; write [{text}]")
    if not _is_host(text):
        raise wrong(
            f"{excerpt(text)} is no host name or address; letters, digits and - between dots are, no _"
        )
    return text


def bind_host(text: str) -> str:
    """An address to listen on, IPv6 with or without brackets (the value has none)."""
    plain = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_ipv6(plain) and (plain != text or not _is_host(plain)):
        raise wrong(f"{excerpt(text)} is no address; 127.0.0.1, 0.0.0.0, :: or a host name are")
    return plain


def host_and_port(text: str) -> tuple[str, int]:
    """``HOST:PORT``, an IPv6 host in brackets (the value has none)."""
    host, colon, port = text.rpartition(":")
    plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_address = plain != host and _is_ipv6(plain)
    if not colon or not (is_address or (plain == host and _is_host(host))) or not _is_port(port):
        raise wrong(f"{excerpt(text)} is no HOST:PORT; 127.0.0.1:8123 or [::1]:8123 are")
    return plain, int(port)


def connect_string(text: str) -> str:
    """ZooKeeper servers: ``host:port,host:port``, perhaps with a root path behind."""
    servers, slash, root = text.partition("/")
    for server in servers.split(","):
        server_text = server.strip(BLANKS)
        try:
            host_and_port(server_text if ":" in server_text else f"{server_text}:2181")
        except ConfigError:
            raise wrong(
                f"{excerpt(server_text)} is no HOST:PORT; write host:2181,host:2181 and perhaps /root"
            ) from None
    return ",".join(server.strip(BLANKS) for server in servers.split(",")) + slash + zookeeper_path(root)[1:]


def zookeeper_path(text: str) -> str:
    """A node path: a slash is put in front, slashes at the end go."""
    path = "/" + text.strip("/")
    parts = path[1:].split("/")
    if path != "/" and any(part in {"", ".", ".."} or not part.isprintable() for part in parts):
        raise wrong(f"{excerpt(text)} is no node path; /meta or /a/b are")
    return path


def delete_policy(text: str) -> DeletePolicy:
    """``delete,AGE``, ``archive,AGE`` or ``archive,AGE,true`` (compressed); AGE in hours or with h, m, s."""
    name, *rest = (part.strip(BLANKS) for part in text.split(","))
    action: Literal["delete", "archive"]
    if name == "delete":
        action = "delete"
    elif name == "archive":
        action = "archive"
    else:
        raise wrong(f"{excerpt(name)} is no action; delete,168 or archive,168,true are")
    age = _AGE.fullmatch(rest[0]) if rest else None
    if age is None:
        shown = excerpt(rest[0]) if rest else "nothing"
        raise wrong(f"{shown} is no age; write a number of hours, or a number with h, m or s")
    options = [option.lower() for option in rest[1:]]
    if options and (action == "delete" or options not in (["true"], ["false"])):
        raise wrong(
            f"{excerpt(','.join(rest[1:]))} is too much; only archive has a third part, true or false"
        )
    seconds = int(age["number"]) * _UNIT_SECONDS[age["unit"]]
    return DeletePolicy(action=action, age_seconds=float(seconds), compress=options == ["true"])


def _is_host(text: str) -> bool:
    """A host name or an IPv4 address; a name that looks like an address must be one."""
    if not text or len(text) > HOST_CHARACTERS_MAX or not _HOST.fullmatch(text):
        return False
    if _IPV4_LIKE.fullmatch(text):
        parts = text.split(".")
        return len(parts) == 4 and all(
            part.isdigit() and len(part) <= 3 and int(part) <= 255 for part in parts
        )
    labels = text.rstrip(".").split(".")
    # java.net.URI wants a letter at the beginning of the last of several labels.
    return len(labels) == 1 or labels[-1][0].isalpha()


def _is_ipv6(text: str) -> bool:
    """An IPv6 address, perhaps with its zone, without brackets."""
    parts = _IPV6.fullmatch(text)
    if parts is None:
        return False
    try:
        ipaddress.IPv6Address(parts["address"])
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535
