"""Access lists: who may do what to a node, by the schemes ``world``, ``auth``, ``digest`` and ``ip``."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from enum import IntFlag
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import attrs

from metaserver.registry.embedded.codes import Code, RequestRefusedError
from metaserver.registry.embedded.node import Acl

if TYPE_CHECKING:
    from collections.abc import Collection


class Permission(IntFlag):
    """What an entry allows."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    ADMIN = 16


@attrs.frozen
class Identity:
    """Something a connection has shown to be."""

    scheme: str
    name: str


def digest_identity(credentials: bytes) -> Identity:
    """Who ``USER:PASSWORD`` is: ``USER:`` and the base64 of its SHA-1."""
    # The scheme's own hash: any other would match no access list ever written.
    hashed = hashlib.sha1(credentials, usedforsecurity=False).digest()
    user = credentials.partition(b":")[0].decode(errors="replace")
    return Identity("digest", f"{user}:{b64encode(hashed).decode()}")


def resolve_acl(acl: tuple[Acl, ...], identities: Collection[Identity]) -> tuple[Acl, ...]:
    """The list to store: each once, ``auth`` replaced by who the client is.

    Raises RequestRefusedError for an empty list and for entries nobody could match.
    """
    resolved: dict[Acl, None] = {}
    for entry in acl:
        if entry.scheme == "auth":
            own = [identity for identity in identities if identity.scheme == "digest"]
            if not own:
                raise RequestRefusedError(Code.INVALID_ACL)
            for identity in own:
                resolved[Acl(entry.permissions, identity.scheme, identity.name)] = None
        elif not _is_valid(entry):
            raise RequestRefusedError(Code.INVALID_ACL)
        else:
            resolved[entry] = None
    if not resolved:
        raise RequestRefusedError(Code.INVALID_ACL)
    return tuple(resolved)


def check_acl(acl: tuple[Acl, ...], needed: Permission, identities: Collection[Identity]) -> None:
    """Raises RequestRefusedError where no entry allows any of what is needed."""
    for entry in acl:
        if entry.permissions & needed:
            if entry.scheme == "world":
                return
            for identity in identities:
                if identity.scheme == entry.scheme and _matches(entry, identity):
                    return
    raise RequestRefusedError(Code.NO_AUTH)


def without_hashes(acl: tuple[Acl, ...]) -> tuple[Acl, ...]:
    """The list as it is shown to those who may not change it."""
    return tuple(
        attrs.evolve(entry, identity=f"{entry.identity.partition(':')[0]}:x")
        if entry.scheme == "digest"
        else entry
        for entry in acl
    )


def _is_valid(entry: Acl) -> bool:
    match entry.scheme:
        case "world":
            return entry.identity == "anyone"
        case "digest":
            return entry.identity.count(":") == 1
        case "ip":
            try:
                ip_network(entry.identity, strict=False)
            except ValueError:
                return False
            return True
        case _:
            return False


def _matches(entry: Acl, identity: Identity) -> bool:
    if entry.scheme != "ip":
        return identity.name == entry.identity
    return ip_address(identity.name) in ip_network(entry.identity, strict=False)
