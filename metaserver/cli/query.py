"""``query``: offsets of groups in every storage; MetaQ's shell, and its commands as arguments."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import click
import trio

from metaserver.cli.cluster import chosen_cluster, cluster_arguments, opened
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure, complain, say, table
from metaserver.registry.paths import BrokerPartition

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.client import Session

_PROMPT = "meta shell :"
_NAMES = {"t": "topic", "g": "group", "p": "partition"}
_HELP = """\
showoffset topic=T group=G partition=P [type=STORAGE]   one offset; also t=, g=, p=
offsets group=G [topic=T] [type=STORAGE]                every offset of a group; without type in each storage
help                                                    this
quit, exit                                              the end
STORAGE is zk (the registry), file[:PATH], sqlite:PATH, mysql or jdbc (with -j FILE), sql:MODULE:ARGUMENT.
A partition without a broker, like 3, is one of the broker of server.ini."""


class _Places(NamedTuple):
    """Where offsets are looked for."""

    choice: Choice
    broker_id: int
    jdbc: str | None
    """The name of the place of ``-j``."""

    def named(self, text: str) -> str:
        if text in ("mysql", "jdbc"):
            if self.jdbc is None:
                raise Failure(f"type={text} needs -j FILE, with jdbc.url", ExitCode.USAGE)
            return self.jdbc
        return "registry" if text == "zk" else text


@click.command()
@click.argument("words", nargs=-1, metavar="[COMMAND]")
@click.option(
    "-s", "old_server_file", type=click.Path(), metavar="FILE", help="The same as -f, as MetaQ has it."
)
@click.option(
    "-j", "jdbc_file", metavar="FILE", help="Properties with jdbc.url, jdbc.username, jdbc.password."
)
@cluster_arguments
def query(
    *,
    words: tuple[str, ...],
    old_server_file: str | None,
    jdbc_file: str | None,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
) -> None:
    """Show offsets that groups have stored, in whatever storage: `showoffset`, `offsets`.

    Without COMMAND it reads commands from standard input; `help` lists them.
    """
    from pathlib import Path

    if old_server_file is not None:
        server_file = Path(old_server_file)
    places = _Places(
        chosen_cluster(servers, root, server_file),
        _broker_id(server_file) if servers is None else 0,
        None if jdbc_file is None else f"jdbc:{jdbc_file}",
    )
    if words:
        trio.run(_run, places, list(words))
        return
    while True:
        if sys.stdin.isatty():
            print(_PROMPT, end=" ", flush=True)
        line = sys.stdin.readline()
        words = tuple(line.split())
        if not line or words[:1] in (("quit",), ("exit",)):
            return
        if words:
            _answer(places, list(words))


def _answer(places: _Places, words: list[str]) -> None:
    """Of a shell, which goes on after a mistake."""
    from metaserver.errors import MetaServerError

    try:
        trio.run(_run, places, words)
    except (Failure, MetaServerError) as error:
        complain(error.message if isinstance(error, Failure) else str(error))


def _broker_id(server_file: Path | None) -> int:
    from metaserver.cli.installation import find_installation
    from metaserver.config import load_server_config

    return load_server_config(find_installation(server_file).server_file, lenient=True).broker_id


async def _run(places: _Places, words: list[str]) -> None:
    from metaserver.cli.offset_places import is_registry

    command, *rest = words
    if command == "help":
        say(_HELP)
        return
    if command not in ("showoffset", "offsets"):
        raise Failure(f"{command!r} is no command; `help` lists them", ExitCode.USAGE)
    values = _values(rest)
    default = "zk" if command == "showoffset" else ""
    kind = values.pop("type", default)
    chosen = [places.named(kind)] if kind else ["registry", "file", *filter(None, [places.jdbc])]
    async with AsyncExitStack() as stack:
        session = None
        if any(map(is_registry, chosen)):
            session = await stack.enter_async_context(opened(places.choice))
        if command == "showoffset":
            await _show_one(places, chosen[0], session, values)
        else:
            await _show_all(chosen, session, values)


async def _show_one(places: _Places, place: str, session: Session | None, values: dict[str, str]) -> None:
    from metaserver.cli.offset_places import open_place
    from metaserver.client import Partition

    missing = [name for name in _NAMES.values() if name not in values]
    if missing:
        raise Failure(f"showoffset needs {', '.join(f'{name}=' for name in missing)} too", ExitCode.USAGE)
    text = values["partition"]
    parsed = BrokerPartition.parse(text if "-" in text else f"{places.broker_id}-{text}")
    if parsed is None:
        raise Failure(f"{text!r} is no partition; write P or BROKER-P", ExitCode.USAGE)
    partition = Partition(values["topic"], parsed.broker_id, parsed.partition)
    stored = (await open_place(place, session).load(values["group"])).get(partition)
    if stored is None:
        raise Failure(f"group {values['group']} has no offset of {values['topic']} {parsed} in {place}")
    say(str(stored.offset))


async def _show_all(chosen: list[str], session: Session | None, values: dict[str, str]) -> None:
    from metaserver.cli.offset_places import open_place

    if "group" not in values or values.keys() - {"group", "topic"}:
        raise Failure("write offsets group=G [topic=T] [type=STORAGE]", ExitCode.USAGE)
    rows = []
    for place in chosen:
        found = await open_place(place, session).load(values["group"])
        rows += [
            [
                place,
                partition.topic,
                str(partition.in_topic),
                str(at.offset),
                "-" if at.message_id is None else str(at.message_id),
            ]
            for partition, at in sorted(found.items(), key=lambda item: item[0])
            if values.get("topic") in (None, partition.topic)
        ]
    if not rows:
        raise Failure(f"group {values['group']} has no such offset in {', '.join(chosen)}")
    say(table([["storage", "topic", "partition", "offset", "id"], *rows], right=frozenset({3, 4})))


def _values(words: list[str]) -> dict[str, str]:
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = _NAMES.get(name, name)
        if not equals or not value or name not in (*_NAMES.values(), "type"):
            raise Failure(f"{word!r} is none of topic=, group=, partition=, type=", ExitCode.USAGE)
        values[name] = value
    return values
