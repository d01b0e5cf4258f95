"""Where a node leaves what is not messages: pid file, log file, control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.control.address import MASTER_SOCKET_NAME, SLAVE_SOCKET_NAME

if TYPE_CHECKING:
    from pathlib import Path


@attrs.frozen
class NodePaths:
    """One set for the master and one for the slave of an installation: both can run at once."""

    logs_directory: Path
    is_slave: bool

    @classmethod
    def of(cls, base_directory: Path, *, is_slave: bool) -> NodePaths:
        """The paths of the installation in this directory, as MetaQ has them: below ``logs``."""
        return cls(base_directory / "logs", is_slave)

    @property
    def pid_file(self) -> Path:
        """Holds the process id while the node runs."""
        return self.logs_directory / (".run-slave.pid" if self.is_slave else ".run.pid")

    @property
    def log_file(self) -> Path:
        """What the node logs when it runs in the background."""
        return self.logs_directory / ("metaServer-slave.log" if self.is_slave else "metaServer.log")

    @property
    def control_socket(self) -> Path:
        """Where the command line talks to the node."""
        return self.logs_directory / (SLAVE_SOCKET_NAME if self.is_slave else MASTER_SOCKET_NAME)
