"""``httpUsersFile`` on the command line: what is wrong with it is said before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from tests.cli.conftest import Home

WRONG = '[users.ops]\nrole = "root"\ntoken = "0123456789abcdef"\n'
RIGHT = WRONG.replace("root", "admin")


def test_a_file_that_is_wrong_is_found_by_the_check_and_by_the_start(home: Home) -> None:
    home.configure(httpUsersFile="conf/users.toml")
    missing = home.run("check-config", str(home.server_file))
    assert missing.code == ExitCode.CONFIGURATION
    assert "users.toml: cannot be read" in missing.out
    users = home.base / "conf" / "users.toml"
    users.write_text(WRONG, encoding="utf-8")
    checked = home.run("check-config", str(home.server_file))
    assert checked.code == ExitCode.CONFIGURATION
    assert "[users.ops] role: 'root' is no role" in checked.out
    started = home.run("start")
    assert started.code == ExitCode.CONFIGURATION
    assert "[users.ops] role: 'root' is no role" in started.err


def test_tokens_that_others_may_read_are_warned_of(home: Home) -> None:
    home.configure(httpUsersFile="conf/users.toml")
    users = home.base / "conf" / "users.toml"
    users.write_text(RIGHT, encoding="utf-8")
    users.chmod(0o640)
    assert home.run("check-config", str(home.server_file)).code == 0
    home.start()
    log = (home.base / "logs" / "metaServer.log").read_text(encoding="utf-8")
    assert "chmod 600" in log
    users.chmod(0o600)
    assert home.run("restart").code == 0
    log = (home.base / "logs" / "metaServer.log").read_text(encoding="utf-8")
    assert log.count("chmod 600") == 1
