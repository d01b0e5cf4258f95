"""Options that several verbs share."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.installation import Installation, find_installation, find_pair
from metaserver.cli.output import Failure, complain

if TYPE_CHECKING:
    from collections.abc import Callable

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_SYNCHRONOUS = ("samsa", "gregor")
ROLES = ("", "local", "slave", *_SYNCHRONOUS)
"""The words for a kind of node: `samsa` is the master of a synchronous pair, `gregor` its slave."""
_PLUG_INS = ("metaslave", *_SYNCHRONOUS, "jettyBroker")

server_file_option = click.option(
    "-f",
    "server_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="server.ini of the broker; its logs directory is beside conf.",
)
plug_in_option = click.option(
    "-F",
    "plug_ins",
    multiple=True,
    metavar="PLUG_IN=FILE",
    help="A properties file: the node is a slave (metaslave), or of a pair (samsa, gregor).",
)
lenient_option = click.option(
    "--lenient", is_flag=True, help="Pass over unknown keys of the configuration, as MetaQ does."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
execute_option = click.option(
    "--execute", "executes", is_flag=True, help="Do it; without it, only what would change is told."
)
preview_option = click.option(
    "--preview",
    "preview_bytes",
    type=click.IntRange(0),
    default=48,
    show_default=True,
    metavar="BYTES",
    help="So much of each payload is shown.",
)

role_argument = click.argument("role", required=False, default="", metavar="[slave]")


def jmx_options(function: _Function) -> _Function:
    """``-host`` and ``-port``, as MetaQ's tools have them: accepted for this machine, and not needed."""
    host = click.option("-host", "--host", expose_value=False, callback=_check_jmx_host, hidden=True)
    return host(click.option("-port", "--port", type=int, expose_value=False, hidden=True)(function))


def _check_jmx_host(_context: click.Context, _option: click.Parameter, host: str | None) -> None:
    if host is not None and host not in ("localhost", "127.0.0.1", "::1", "[::1]"):
        raise Failure(
            f"-host {host}: a broker is administered on its own machine, over its control socket; "
            "run the command there",
            ExitCode.USAGE,
        )


def slave_id_option(text: str) -> Callable[[_Function], _Function]:
    """``--slave-id N``: which of the slaves of a master an old master becomes."""
    return click.option(
        "--slave-id", type=click.IntRange(0), default=0, show_default=True, metavar="N", help=text
    )


def node_arguments(function: _Function) -> _Function:
    """``[slave|samsa|gregor] [-f FILE] [-Fmetaslave=FILE]``: which node a verb is for."""
    return role_argument(server_file_option(plug_in_option(function)))


def chosen_node(role: str, server_file: Path | None, plug_ins: tuple[str, ...]) -> Installation:
    """What :func:`node_arguments` has read; raises Failure for a role or plug-in there is not."""
    if role not in ROLES:
        known = "`slave`, `local`, and `samsa` and `gregor` of a synchronous pair"
        raise Failure(f"{role!r} is no kind of node; there are {known}", ExitCode.USAGE)
    slave_file = None
    pair_file = None
    for plug_in in plug_ins:
        name, equals, path = plug_in.partition("=")
        if name in _SYNCHRONOUS and equals and path:
            if role not in ("", "local", name):
                raise Failure(
                    f"-F{plug_in} makes the node a {name}, and `{role}` something else", ExitCode.USAGE
                )
            role, pair_file = name, Path(path)
            continue
        if name == "jettyBroker":
            complain("-FjettyBroker is not needed: HTTP is always on, at dashboardHttpPort of server.ini")
            continue
        if name != "metaslave" or not equals or not path:
            close = get_close_matches(name, _PLUG_INS, 1)
            hint = f"do you mean -F{close[0]}=FILE?" if close else "what there is: -Fmetaslave=FILE"
            raise Failure(f"-F{plug_in}: {hint}", ExitCode.USAGE)
        slave_file = Path(path)
    if role in _SYNCHRONOUS:
        if slave_file is not None:
            raise Failure(f"-Fmetaslave makes the node a slave, and `{role}` something else", ExitCode.USAGE)
        return find_pair(server_file, pair_file, is_gregor=role == "gregor")
    return find_installation(server_file, slave_file, is_slave=role == "slave")
