"""Which configuration files a command speaks of, and which folder the node of these files lives in.

An installation is a base directory with ``conf`` and ``logs``. Without ``-f`` it is, in this order:
``$BASE_DIR``; the current directory, if it has ``conf/server.ini``; the checkout this program lies in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure

_CHECKOUT = Path(__file__).resolve().parents[2]
_SERVER_FILE = Path("conf", "server.ini")
_SLAVE_FILE_NAME = "async_slave.properties"
_SAMSA_FILE_NAME = "samsa_master.properties"
_GREGOR_FILE_NAME = "gregor_slave.properties"


class Installation(NamedTuple):
    """One node of one installation: its master or its slave."""

    server_file: Path
    slave_file: Path | None
    """None: the master."""
    pair_file: Path | None = None
    """Of the master of a synchronous pair."""
    is_gregor: bool = False
    """Whether it is the slave of a synchronous pair, and ``slave_file`` is of that kind."""

    @property
    def is_slave(self) -> bool:
        """Whether the commands go to the slave."""
        return self.slave_file is not None

    @property
    def role(self) -> str:
        """``master`` or ``slave``."""
        return "slave" if self.is_slave else "master"

    @property
    def base_directory(self) -> Path:
        """The parent of ``logs``.

        The rule of ``metaserver.config.base_directory_of``, which would cost ``start`` the import of the
        whole configuration; a test holds the two together.
        """
        parent = self.server_file.parent
        return parent.parent if parent.name == "conf" else parent

    @property
    def verb_suffix(self) -> str:
        """What follows a verb that is meant for this node: `` slave``, say, or nothing."""
        if self.pair_file is not None:
            return " samsa"
        if self.is_gregor:
            return " gregor"
        return " slave" if self.is_slave else ""


def find_installation(
    server_file: Path | None, slave_file: Path | None = None, *, is_slave: bool = False
) -> Installation:
    """The files that were named, or those of the installation around us; raises Failure."""
    chosen = _server_file(server_file)
    if slave_file is not None:
        return Installation(chosen, absolute(slave_file))
    return Installation(chosen, chosen.parent / _SLAVE_FILE_NAME if is_slave else None)


def find_pair(server_file: Path | None, plug_in_file: Path | None, *, is_gregor: bool) -> Installation:
    """The same for a node of a synchronous pair; raises Failure."""
    chosen = _server_file(server_file)
    default = chosen.parent / (_GREGOR_FILE_NAME if is_gregor else _SAMSA_FILE_NAME)
    file = default if plug_in_file is None else absolute(plug_in_file)
    return Installation(chosen, file, is_gregor=True) if is_gregor else Installation(chosen, None, file)


def absolute(path: Path) -> Path:
    """From the root, without ``..``; links are left as they are, so that ``conf`` may be one."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _server_file(named: Path | None) -> Path:
    return _default_server_file() if named is None else absolute(named)


def _default_server_file() -> Path:
    named = os.environ.get("BASE_DIR")
    if named:
        file = absolute(Path(named)) / _SERVER_FILE
        if not file.is_file():
            raise Failure(
                f"BASE_DIR is {named}, and there is no {_SERVER_FILE} in it; set it to the folder above "
                "conf, or name the file with -f FILE",
                ExitCode.CONFIGURATION,
            )
        return file
    for directory in (Path.cwd(), _CHECKOUT):
        if (directory / _SERVER_FILE).is_file():
            return directory / _SERVER_FILE
    raise Failure(
        "there is no conf/server.ini here; name the file with -f FILE, or the folder above conf in BASE_DIR",
        ExitCode.CONFIGURATION,
    )
