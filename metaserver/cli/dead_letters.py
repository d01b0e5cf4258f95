"""dead-letters: list, show, replay, remove; in a store on this machine or in a topic."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click
import trio

from metaserver.cli.cluster import check_topic, chosen_cluster, cluster_arguments, opened
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import payload_fields, time_text
from metaserver.cli.letters import Letter, StoredLetters, TopicLetters
from metaserver.cli.options import json_option
from metaserver.cli.output import Failure, complain, count_of, say, table
from metaserver.client.local_store import LocalStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from metaserver.cli.cluster import Choice
    from metaserver.cli.letters import Letters
    from metaserver.client import OutgoingMessage, Producer, Session
    from metaserver.errors import SendError

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_REASON_CHARACTERS = 60
_BATCH = 100


@attrs.frozen
class Place:
    """Where the letters lie."""

    where: str
    path: Path | None
    """Of the store; None: ``where`` is a topic."""
    choice: Callable[[], Choice]
    """Which cluster; asked for only where one is needed."""


@attrs.frozen
class Wanted:
    """Which of them."""

    keys: tuple[str, ...]
    """Empty: all that fit."""
    group: str | None
    topic: str | None
    with_waiting: bool = False

    def fits(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        return (
            (letter.is_dead or self.with_waiting)
            and self.group in (None, letter.group)
            and self.topic in (None, letter.topic)
        )


def _place_arguments(function: _Function) -> _Function:
    return click.argument("where", metavar="FILE|TOPIC")(cluster_arguments(function))


def _filter_options(function: _Function) -> _Function:
    group = click.option("--group", metavar="GROUP", help="Only those of this group.")
    topic = click.option("--topic", metavar="TOPIC", help="Only those that came from this topic.")
    return group(topic(function))


def _chosen_arguments(function: _Function) -> _Function:
    """Where, and which of them, by key or by what they are."""
    keys = click.argument("keys", nargs=-1, metavar="[KEY]...")
    takes_all = click.option(
        "--all", "takes_all", is_flag=True, help="All, or all that --group and --topic leave."
    )
    return _place_arguments(keys(takes_all(_filter_options(function))))


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at messages that a group could not deal with, and send them again.

    They lie in FILE, a store on this machine, or in TOPIC.
    """


@dead_letters.command("list")
@_place_arguments
@_filter_options
@click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="At most so many.")
@click.option("--waiting", "with_waiting", is_flag=True, help="Also those in a store that wait to be sent.")
@json_option
def list_letters(
    *,
    where: str,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    group: str | None,
    topic: str | None,
    count: int,
    with_waiting: bool,
    as_json: bool,
) -> None:
    """List them, the oldest of a store or partition first."""
    place = _find(where, servers, root, server_file)
    wanted = Wanted((), group, topic, with_waiting)
    found, left_out, waiting = trio.run(_list, place, wanted, count)
    if as_json:
        say(json.dumps([_as_json(letter) for letter in found], indent=2, ensure_ascii=False))
    else:
        say(_describe(found))
    if left_out:
        complain(f"there are more than {count_of(count, 'message')}; --count shows more")
    if waiting:
        complain(
            f"{count_of(waiting, 'message')} in the store only wait to be sent; --waiting lists them too"
        )


@dead_letters.command("show")
@_place_arguments
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@json_option
def show_letters(
    *,
    where: str,
    keys: tuple[str, ...],
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Show all there is to these messages."""
    found = trio.run(_show, _find(where, servers, root, server_file), keys)
    for letter in found:
        fields = _as_json(letter)
        if as_json:
            say(json.dumps(fields, ensure_ascii=False))
        else:
            say("\n".join(f"{name}: {value}" for name, value in fields.items() if value is not None) + "\n")


@dead_letters.command("replay")
@_chosen_arguments
@click.option("--to", "target", metavar="TOPIC", help="Send them there, not where they came from.")
def replay_letters(
    *,
    where: str,
    keys: tuple[str, ...],
    takes_all: bool,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    group: str | None,
    topic: str | None,
    target: str | None,
) -> None:
    """Send them again, with their attributes; from a store, what a broker has taken is removed."""
    if target is not None:
        check_topic(target)
    place = _find(where, servers, root, server_file)
    sent, failures = trio.run(_replay, place, _wanted(keys, group, topic, takes_all=takes_all), target)
    say(f"{count_of(sent, 'message')} sent")
    for letter, error in failures:
        complain(f"{letter.key}: {error}")
    if failures:
        raise SystemExit(int(ExitCode.NOT_ACKNOWLEDGED))
    if place.path is None and sent:
        complain("a topic keeps its messages: replayed again, these are sent again")


@dead_letters.command("remove")
@_chosen_arguments
def remove_letters(
    *,
    where: str,
    keys: tuple[str, ...],
    takes_all: bool,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    group: str | None,
    topic: str | None,
) -> None:
    """Remove them from a store, for good."""
    place = _find(where, servers, root, server_file)
    if place.path is None:
        raise Failure(f"{where} is a topic: its messages stay until retention removes them", ExitCode.USAGE)
    removed = trio.run(_remove, place, _wanted(keys, group, topic, takes_all=takes_all))
    say(f"{count_of(removed, 'message')} removed")


def _find(where: str, servers: str | None, root: str | None, server_file: Path | None) -> Place:
    """A store where there is such a file, or only a file can be meant; raises Failure."""
    path = Path(where).expanduser()
    is_file = path.is_file()
    if not is_file and "/" in where:
        problem = "is a directory, and no store" if path.is_dir() else "there is no such file"
        raise Failure(f"{where}: {problem}")
    if not is_file:
        check_topic(where)
    return Place(where, path if is_file else None, lambda: chosen_cluster(servers, root, server_file))


def _wanted(keys: tuple[str, ...], group: str | None, topic: str | None, *, takes_all: bool) -> Wanted:
    if bool(keys) == (takes_all or group is not None or topic is not None):
        raise Failure("name messages by their KEYs, or give --all, --group or --topic", ExitCode.USAGE)
    return Wanted(keys, group, topic)


@asynccontextmanager
async def _letters(place: Place) -> AsyncIterator[Letters]:
    if place.path is not None:
        async with LocalStore.open(place.path) as store:
            yield StoredLetters(store)
    else:
        async with opened(place.choice()) as session:
            yield TopicLetters(session, place.where)


async def _list(place: Place, wanted: Wanted, count: int) -> tuple[list[Letter], bool, int]:
    """Those to be shown, whether there are more, and how many wait and are not shown."""
    found: list[Letter] = []
    waiting = 0
    async with _letters(place) as letters:
        while page := await letters.next_page():
            waiting += sum(not letter.is_dead and not wanted.with_waiting for letter in page)
            found += filter(wanted.fits, page)
            if len(found) > count:
                break
    return found[:count], len(found) > count, waiting


async def _show(place: Place, keys: tuple[str, ...]) -> list[Letter]:
    async with _letters(place) as letters:
        return await letters.find(keys)


async def _remove(place: Place, wanted: Wanted) -> int:
    if place.path is None:
        raise AssertionError("only a store can be removed from")
    removed = 0
    async with LocalStore.open(place.path) as store:
        letters = StoredLetters(store)
        while page := await _next(letters, wanted):
            removed += await store.remove(int(letter.key) for letter in page)
            if wanted.keys:
                break
    return removed


async def _next(letters: Letters, wanted: Wanted) -> list[Letter]:
    """The next of them; none: that was all."""
    if wanted.keys:
        return await letters.find(wanted.keys)
    while page := await letters.next_page():
        if fitting := [letter for letter in page if wanted.fits(letter)]:
            return fitting
    return []


async def _replay(
    place: Place, wanted: Wanted, target: str | None
) -> tuple[int, list[tuple[Letter, SendError]]]:
    """How many were sent, and which were not."""
    async with opened(place.choice()) as session:
        if place.path is None:
            return await _send_all(session, TopicLetters(session, place.where), wanted, target)
        async with LocalStore.open(place.path) as store:
            return await _send_all(session, StoredLetters(store), wanted, target)


async def _send_all(
    session: Session, letters: Letters, wanted: Wanted, target: str | None
) -> tuple[int, list[tuple[Letter, SendError]]]:
    sent = 0
    failures: list[tuple[Letter, SendError]] = []
    async with session.producer() as producer:
        while page := await _next(letters, wanted):
            for start in range(0, len(page), _BATCH):
                batch = page[start : start + _BATCH]
                _expect_elsewhere(letters, batch, target)
                failed = await _send(producer, batch, target)
                gone = [letter for letter in batch if letter.key not in failed]
                sent += len(gone)
                failures += [(letter, failed[letter.key]) for letter in batch if letter.key in failed]
                if isinstance(letters, StoredLetters):
                    await letters.store.remove(int(letter.key) for letter in gone)
                    for letter in batch:
                        if letter.key in failed:
                            # The reason of a dead letter is what its group failed on.
                            reason = letter.reason if letter.is_dead else str(failed[letter.key])
                            await letters.store.note_failure(int(letter.key), reason)
            if wanted.keys or failures:
                break
    return sent, failures


def _expect_elsewhere(letters: Letters, batch: Sequence[Letter], target: str | None) -> None:
    """Raises Failure where a topic's letters would go to its own end, and so for ever."""
    if not isinstance(letters, TopicLetters):
        return
    for letter in batch:
        if (target or letter.topic) == letters.topic:
            raise Failure(
                f"{letter.key} would be sent to {letters.topic} itself; name another topic with --to"
            )


async def _send(producer: Producer, batch: Sequence[Letter], target: str | None) -> dict[str, SendError]:
    """Those that were not acknowledged, by key."""
    from metaserver.client import OutgoingMessage
    from metaserver.errors import SendError, SendManyError

    by_topic: dict[str, list[Letter]] = {}
    for letter in batch:
        by_topic.setdefault(target or letter.topic, []).append(letter)
    failed: dict[str, SendError] = {}
    for topic, letters in by_topic.items():
        messages: list[bytes | OutgoingMessage] = [
            OutgoingMessage(letter.payload, letter.attribute) for letter in letters
        ]
        try:
            await producer.send_many(topic, messages)
        except SendManyError as error:
            for letter, outcome in zip(letters, error.outcomes, strict=True):
                if isinstance(outcome, SendError):
                    failed[letter.key] = outcome
    return failed


def _as_json(letter: Letter) -> dict[str, Any]:
    return {
        "key": letter.key,
        "topic": letter.topic,
        "partition": letter.partition or None,
        "offset": letter.offset,
        "message_id": letter.message_id,
        "group": letter.group or None,
        "attempts": letter.attempts,
        "time": time_text(letter.wall_seconds),
        "reason": letter.reason,
        "attribute": letter.attribute,
        **payload_fields(letter.payload),
    }


def _describe(found: list[Letter]) -> str:
    if not found:
        return "no dead letters"
    rows = [["key", "time", "group", "topic", "partition", "offset", "attempts", "bytes", "reason"]]
    rows += [
        [
            letter.key,
            time_text(letter.wall_seconds),
            letter.group or "(to be sent)",
            letter.topic,
            letter.partition or "-",
            "-" if letter.offset is None else str(letter.offset),
            str(letter.attempts),
            str(len(letter.payload)),
            _shortened(letter.reason),
        ]
        for letter in found
    ]
    return table(rows, right=frozenset({5, 6, 7}))


def _shortened(reason: str) -> str:
    text = "".join(character if character.isprintable() else " " for character in reason)
    return text if len(text) <= _REASON_CHARACTERS else f"{text[: _REASON_CHARACTERS - 1]}…"
