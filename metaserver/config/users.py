"""``users.toml``: who may do what over HTTP.

::

    hosts = ["broker.example.org"]  # names this broker is reached by, beside its own
    anonymous = "read"  # what those without a token may do; "none" where it is missing

    [users.alice]
    role = "admin"
    token_sha256 = "9f86d081884c7d65…"  # of the token, in hexadecimal

    [users.shop]
    role = "write"
    token = "a long random text"
"""

from __future__ import annotations

import re
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import attrs
import tomli

from metaserver.config.reading import read_file
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKEN_CHARACTERS_MIN = 16
"""A shorter token could be guessed over the network."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[!-~]+")


class Role(IntEnum):
    """What somebody may do; each includes the ones before."""

    NONE = 0
    """See that the broker lives: health, metrics, status."""
    READ = 1
    """See everything, messages included."""
    WRITE = 2
    """Send messages, and commit for groups."""
    ADMIN = 3
    """Move groups, reload the configuration."""

    @property
    def word(self) -> str:
        """As it stands in the file."""
        return self.name.lower()


_ROLES = {role.word: role for role in Role}


@attrs.frozen
class User:
    """Somebody with a token."""

    name: str
    role: Role


@attrs.frozen
class Users:
    """A ``users.toml``, complete."""

    by_digest: Mapping[str, User] = attrs.field(factory=dict, repr=False)
    """By the SHA-256 of the token, in hexadecimal."""
    anonymous: Role = Role.NONE
    """Never more than WRITE: nobody administers a broker without a name."""
    hosts: frozenset[str] = frozenset()
    """Host names, in lower case, by which the broker may be addressed."""

    def find(self, token: str) -> User | None:
        """Whose token it is.

        Looked up by its digest: how long that takes tells nothing of the tokens there are.
        """
        return self.by_digest.get(sha256(token.encode("utf-8", "surrogateescape")).hexdigest())


def load_users(path: Path) -> Users:
    """Read the file. Raises ConfigError with every problem of it."""
    return parse_users(read_file(path), source=str(path))


def parse_users(data: bytes, *, source: str) -> Users:
    """The same from what a file holds."""
    try:
        document = tomli.loads(data.decode())
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError((f"{source}: {error}",)) from None
    except RecursionError:
        raise ConfigError((f"{source}: it is nested too deep",)) from None
    problems: list[str] = []
    problems += [
        f"{key}: unknown; the keys are anonymous, hosts, users"
        for key in document
        if key not in ("anonymous", "hosts", "users")
    ]
    anonymous = _role(document.get("anonymous", "none"), "anonymous", problems)
    if anonymous is Role.ADMIN:
        problems.append("anonymous: may be none, read or write; who administers a broker has a token")
    hosts = document.get("hosts", [])
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        problems.append('hosts: must be a list of names, ["NAME"]')
        hosts = []
    by_digest = _users(document.get("users", {}), problems)
    if problems:
        raise ConfigError(tuple(f"{source}: {problem}" for problem in problems))
    return Users(by_digest, anonymous, frozenset(host.lower() for host in hosts))


def _users(table: object, problems: list[str]) -> dict[str, User]:
    found: dict[str, User] = {}
    if not isinstance(table, dict):
        problems.append("users: must be tables, [users.NAME]")
        return found
    for name, entry in table.items():
        where = f"[users.{name}]"
        if not isinstance(entry, dict):
            problems.append(f"{where}: must be a table")
            continue
        problems += [
            f"{where} {key}: unknown; the keys are role, token, token_sha256"
            for key in entry
            if key not in ("role", "token", "token_sha256")
        ]
        role = _role(entry.get("role"), f"{where} role", problems)
        digest = _digest(entry, where, problems)
        if digest in found:
            problems.append(f"{where}: has the token of {found[digest].name}")
        elif digest is not None:
            found[digest] = User(name, role)
    return found


def _role(text: object, where: str, problems: list[str]) -> Role:
    role = _ROLES.get(text) if isinstance(text, str) else None
    if role is None:
        problems.append(f"{where}: {text!r} is no role; the roles are {', '.join(_ROLES)}")
        return Role.NONE
    return role


def _digest(entry: dict[str, Any], where: str, problems: list[str]) -> str | None:
    token, digest = entry.get("token"), entry.get("token_sha256")
    if (token is None) == (digest is None):
        problems.append(f"{where}: must have either token or token_sha256")
        return None
    if digest is not None:
        if isinstance(digest, str) and _DIGEST.fullmatch(digest.lower()):
            return digest.lower()
        problems.append(f"{where} token_sha256: must be 64 hexadecimal digits")
        return None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token) or len(token) < TOKEN_CHARACTERS_MIN:
        problems.append(
            f"{where} token: must be {TOKEN_CHARACTERS_MIN} or more printable ASCII characters without blank"
        )
        return None
    return sha256(token.encode()).hexdigest()
