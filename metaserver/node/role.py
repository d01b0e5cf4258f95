"""What a node is: what its files say, unless it was promoted or told to follow since.

Such a decision lies in the data directory, because it belongs to the bytes there: it outlives restarts, and
goes where the directory goes. The files of the configuration stay as somebody wrote them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import attrs

from metaserver.client.servers import format_address
from metaserver.config import SlaveConfig, apply_pair, apply_slave
from metaserver.errors import MetaServerError
from metaserver.storage import RealFileSystem
from metaserver.storage.documents import load_document, parse_json, remove_document, save_document
from metaserver.storage.filenames import ROLE_NAME
from metaserver.storage.filesystem import make_directories

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.config import PairConfig, ServerConfig


@attrs.define
class RoleError(MetaServerError):
    """What was decided for a node cannot be read."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """What to do."""
        return (
            f"{self.path}: {self.reason}; it says whether this node is master or slave: restore it, or "
            "remove it, and the configuration decides"
        )


@attrs.frozen(kw_only=True)
class Decision:
    """What somebody has decided the node of a data directory to be."""

    role: Literal["master", "slave"]
    master_host: str
    """Of a slave, whom it follows; of a master, whose place it took: blank where it had found none."""
    master_port: int
    time: str
    """When, ISO 8601."""
    slave_id: int = 0
    report: dict[str, Any] = attrs.Factory(dict)
    """Of a promotion: what may be missing."""

    @property
    def master(self) -> str:
        """``HOST:PORT``, an IPv6 address in brackets."""
        # The host of an older decision may have them.
        return format_address(self.master_host.strip("[]"), self.master_port)

    @property
    def sentence(self) -> str:
        """For whoever starts the node, or asks how it is."""
        if self.role == "master":
            place = self.master if self.master_host else "a master it had not found"
            return f"promoted at {self.time} in place of {place}: it is master"
        return f"told at {self.time} to follow {self.master}: it is its slave"

    def save(self, data_path: Path) -> None:
        """Durable when it returns, also where the directory is new. Raises OSError."""
        text = json.dumps(attrs.asdict(self), indent=2) + "\n"
        filesystem = RealFileSystem()
        make_directories(filesystem, data_path)
        save_document(filesystem, data_path / ROLE_NAME, text.encode())


def load_decision(data_path: Path) -> Decision | None:
    """What was decided for a data directory; None where nothing was. Raises RoleError."""
    path = data_path / ROLE_NAME
    try:
        data = load_document(RealFileSystem(), path)
        if data is None:
            return None
        decision = Decision(**parse_json(data))
    except (OSError, ValueError, TypeError) as error:
        raise RoleError(path, f"cannot be read: {error}") from error
    if decision.role not in ("master", "slave"):
        raise RoleError(path, f"{decision.role!r} is no role")
    expected = {"master_host": str, "master_port": int, "time": str, "slave_id": int, "report": dict}
    for name, kind in expected.items():
        if not isinstance(value := getattr(decision, name), kind):
            raise RoleError(path, f"{name} is {value!r}, which makes no sense")
    return decision


def forget_decision(data_path: Path) -> None:
    """What the files say holds again. Raises OSError."""
    remove_document(RealFileSystem(), data_path / ROLE_NAME)


@attrs.frozen(kw_only=True)
class Role:
    """A node as it is to be started."""

    config: ServerConfig
    slave_config: SlaveConfig | None
    """None: it is a master."""
    overlay: SlaveConfig | None
    """What replaces values of ``server.ini``, now and after a reload; also on a promoted slave."""
    decision: Decision | None
    """Where it makes the node something else than the files say."""
    promotion: Decision | None = None
    """Of a master that took another's place, whether its files say that it is one or not."""
    pair: PairConfig | None = None
    """Of the master of a synchronous pair."""

    def overlaid(self, server: ServerConfig) -> ServerConfig:
        """A ``server.ini``, perhaps read again, with what the other files of the node replace in it."""
        config = server if self.overlay is None else apply_slave(server, self.overlay)
        return config if self.pair is None else apply_pair(config, self.pair)


def find_role(server: ServerConfig, slave: SlaveConfig | None, pair: PairConfig | None = None) -> Role:
    """From the files, and what was decided since. Raises RoleError."""
    config = server if slave is None else apply_slave(server, slave)
    decision = load_decision(config.data_path)
    if decision is None or (decision.role == "master" and slave is None):
        if pair is not None:
            config = apply_pair(config, pair)
        return Role(
            config=config, slave_config=slave, overlay=slave, decision=None, promotion=decision, pair=pair
        )
    if decision.role == "master":
        return Role(config=config, slave_config=None, overlay=slave, decision=decision, promotion=decision)
    address = (decision.master_host, decision.master_port)
    if slave is None:
        slave = SlaveConfig(
            path=server.path,
            slave_id=decision.slave_id,
            slave_group=f"meta-slave-group_{decision.slave_id}",
            master_address=address,
        )
    else:
        slave = attrs.evolve(slave, master_address=address)
    return Role(config=config, slave_config=slave, overlay=slave, decision=decision)
