"""The chain of nodes above a slave that follows a slave, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaserver.cli.output import describe_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence


def describe_chain(replication: dict[str, Any]) -> list[str]:
    """From the report of a slave: whom its master follows; nothing where that is the master itself."""
    upstream: Sequence[dict[str, Any]] = replication.get("upstream", [])
    if not any(hop["is_slave"] for hop in upstream):
        return []
    texts = [f"{hop['address']} ({_describe(hop)})" for hop in upstream]
    return ["chain this slave -> " + " -> ".join(texts)]


def _describe(hop: dict[str, Any]) -> str:
    if not hop["is_connected"]:
        return f"{hop['role']}, not connected"
    behind = f", {describe_bytes(hop['lag_bytes'])} ahead" if hop["lag_bytes"] else ""
    return f"{hop['role']}{behind}"
