"""What the files beside ``server.ini`` make of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.config import load_pair_config, load_slave_config

if TYPE_CHECKING:
    from metaserver.cli.installation import Installation
    from metaserver.config import PairConfig, SlaveConfig


def load_slave(installation: Installation, *, is_lenient: bool) -> SlaveConfig | None:
    """Of a slave of any kind; None: it is a master. Raises ConfigError."""
    if installation.slave_file is None:
        return None
    return load_slave_config(installation.slave_file, lenient=is_lenient, is_gregor=installation.is_gregor)


def load_pair(installation: Installation, *, is_lenient: bool) -> PairConfig | None:
    """Of the master of a synchronous pair; None: it is another node. Raises ConfigError."""
    if installation.pair_file is None:
        return None
    return load_pair_config(installation.pair_file, lenient=is_lenient)
