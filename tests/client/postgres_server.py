"""A real PostgreSQL for tests: Debian's package, a process of ours, a port of its own on loopback."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pg8000
import pytest

from tools.ports import free_port

PgConnection: TypeAlias = Any
"""It has no types."""

_USER = "postgres"
_START_SECONDS_MAX = 60.0
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/metaserver-tests.conf")


def require_postgres() -> None:
    """Install the package where we may; else leave the test out, and say what is missing."""
    if _programs() is None and not _install():
        pytest.skip("there is no PostgreSQL here: it is in Debian's package postgresql")


def _programs() -> Path | None:
    """The folder of initdb and postgres, which Debian keeps out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


def _install() -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    with (Path(tempfile.gettempdir()) / "metaserver-tests-apt.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _programs() is not None:
            return True
        sys.__stderr__ and sys.__stderr__.write("\ninstalling Debian's package postgresql for the tests\n")
        install = ("install", "-y", "-q", "--no-install-recommends")
        _apt("update", "-q")
        _apt(*install, "postgresql-common")
        # The package would start a server for everybody, on the usual port.
        if _NO_CLUSTER.parent.parent.is_dir():
            _NO_CLUSTER.parent.mkdir(exist_ok=True)
            _NO_CLUSTER.write_text("create_main_cluster = false\n", encoding="utf-8")
        _apt(*install, "postgresql")
        _NO_CLUSTER.unlink(missing_ok=True)
    return _programs() is not None


def _apt(*arguments: str) -> None:
    subprocess.run(["apt-get", *arguments], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _as_user() -> dict[str, Any]:
    """It refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": _USER, "group": _USER, "extra_groups": []}


@attrs.define(eq=False)
class PostgresServer:
    """One server with a data directory of its own."""

    directory: Path = attrs.Factory(lambda: Path(tempfile.mkdtemp(prefix="metaserver-tests-postgres-")))
    port: int = attrs.Factory(free_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        programs = _programs()
        assert programs is not None
        if os.geteuid() == 0:
            shutil.chown(self.directory, _USER, _USER)
        data = self.directory / "data"
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8"]
        made: subprocess.CompletedProcess[bytes] = subprocess.run(
            [*initdb, "--locale=C", "--no-sync"],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **_as_user(),
        )
        assert made.returncode == 0, made.stdout.decode(errors="replace")
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 40,
        }
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    programs / "postgres",
                    "-D",
                    data,
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **_as_user(),
            )
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not self._is_serving():
            text = (self.directory / "output").read_text(encoding="utf-8", errors="replace")
            assert self._process.poll() is None, f"PostgreSQL ended:\n{text[-4000:]}"
            assert time.monotonic() < deadline, f"PostgreSQL does not answer:\n{text[-4000:]}"
            time.sleep(0.02)

    def connect(self) -> PgConnection:
        return pg8000.connect(_USER, host="127.0.0.1", port=self.port, database="postgres", timeout=20)

    def end_connections(self) -> None:
        """As a restart of the server does: every connection but this one is gone."""
        link = self.connect()
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        link.run(f"SELECT pg_terminate_backend(pid) {others}")
        while link.run(f"SELECT pid {others}"):
            link.rollback()
        link.close()

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
        shutil.rmtree(self.directory)

    def _is_serving(self) -> bool:
        try:
            self.connect().close()
        except (OSError, pg8000.Error):
            return False
        return True
