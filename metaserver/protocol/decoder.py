"""Bytes to commands, for the broker's side of a connection. Pure: no socket, no clock."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote

import attrs

from metaserver.errors import ProtocolError
from metaserver.message import HEADER_SIZE
from metaserver.protocol.commands import (
    OPAQUE_MISSING,
    ZLIB,
    EpochsQuery,
    Get,
    Malformed,
    OffsetQuery,
    OversizedPut,
    Pair,
    PutBatch,
    Puts,
    Quit,
    ReplicaPosition,
    Replicated,
    Stats,
    Successor,
    Sync,
    Transaction,
    TransactionalPut,
    Version,
)
from metaserver.protocol.transactions import NO_KEY, TransactionAction, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.protocol.commands import Command
    from metaserver.protocol.transactions import TransactionKey

# The head is captured whole: puts of one producer share it, so it is parsed once and then looked up.
# Only canonical opaques match; any other form takes the slow path, which makes them canonical.
_PUT = re.compile(
    rb"(put [!-~]+ -?[0-9]{1,10} [0-9]{1,10} -?[0-9]{1,10}) "
    rb"(?:(-?[0-9]{1,10}) )?(0|-?[1-9][0-9]{0,9})\r\n"
)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_ACTIONS = {action.value: action for action in TransactionAction}
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_HEADS_MAX = 1024
_HEAD_BYTES_MAX = 256
"""No head with a valid topic is longer; what is kept of other ones would be a peer's choice."""
_BEHIND_HEAD_BYTES_MAX = 24
"""A blank, a checksum, a blank and an opaque."""
_OPAQUE_DIGITS_SURE = 9
"""Decimal text of up to so many characters cannot be outside of 32 bits."""
_POSITION_WORDS = 4

_SHOWN_CHARACTERS = 60
_PIECE_BYTES = 64
"""What an object that holds bytes takes beside them, with its place in a list; rounded up."""


@attrs.frozen(kw_only=True)
class Limits:
    """What a peer may ask a decoder to hold."""

    line_bytes_max: int = 8192
    body_bytes_max: int = 16 * 1024 * 1024
    record_bytes_max: int = 1024 * 1024
    """The longest record (header included) that can be read back; a longer put is refused."""


@attrs.frozen
class _Head:
    """The parsed first five words of a put."""

    topic: str
    partition: int
    length: int
    flag: int


@attrs.frozen
class _BodyDue:
    """A line has been read; the command follows from its body."""

    length: int
    make: Callable[[bytes], Command | None] = attrs.field(repr=False)


class CommandDecoder:
    """One connection's incoming bytes; feed it what was received, handle what it returns.

    After :class:`Malformed` was returned every later call returns nothing.
    """

    def __init__(self, limits: Limits) -> None:
        """Start at the beginning of a connection."""
        self._limits = limits
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 1
        self._skip = 0
        self._failed = False
        self._heads: dict[bytes, _Head] = {}
        # A line with a head up to here is within the limit, whatever follows.
        self._head_bytes_max = min(_HEAD_BYTES_MAX, limits.line_bytes_max - _BEHIND_HEAD_BYTES_MAX)

    @property
    def has_partial_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._held > 0 or self._skip > 0

    @property
    def has_failed(self) -> bool:
        """Whether :class:`Malformed` was returned, or the decoder given up."""
        return self._failed

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished frame are kept."""
        return self._held

    @property
    def held_memory_bytes(self) -> int:
        """What they cost at most: bytes that come one by one cost more than those that come together."""
        return self._held + _PIECE_BYTES * len(self._chunks)

    def feed(self, data: bytes) -> list[Command]:
        """The commands that ``data`` completes, in the order they came."""
        if self._failed:
            return []
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
        if not data:
            return []
        commands: list[Command] = []
        try:
            self._decode(data, commands)
        except ProtocolError as error:
            self._failed = True
            opaque = OPAQUE_MISSING if error.opaque is None else error.opaque
            commands.append(Malformed(error.reason, opaque))
        return commands

    def give_up(self) -> None:
        """Forget the unfinished frame, and return nothing any more."""
        self._failed = True
        self._chunks.clear()
        self._held = 0

    def _keep(self, data: bytes, position: int, needed: int) -> None:
        """Wait until ``needed`` bytes from ``position`` on are there."""
        rest = data[position:]
        self._needed = needed
        if rest:
            self._chunks.append(rest)
            self._held = len(rest)

    def _decode(self, data: bytes, commands: list[Command]) -> None:
        position, size = 0, len(data)
        while position < size:
            position = self._decode_puts(data, position, commands)
            if position < 0 or position == size:
                return
            position = self._decode_other(data, position, commands)
            if position < 0:
                return

    def _decode_puts(self, data: bytes, position: int, commands: list[Command]) -> int:
        """Every whole plain put from ``position`` on.

        Returns the position of the first other frame, or -1 when the rest was kept for later.

        The hottest loop of the server: about 1.3 µs a message, of which the regular expression is
        half. What can be done for a whole run at once (checksums, ids, replies) is done elsewhere.
        """
        match, heads, size = _PUT.match, self._heads, len(data)
        last_head: bytes | None = None
        topic: str | None = None
        partition = length = flag = 0
        add_body: Callable[[bytes], None]
        add_flag: Callable[[int], None]
        add_checksum: Callable[[bytes | None], None]
        add_opaque: Callable[[bytes], None]
        run: Puts | None = None
        while found := match(data, position):
            head, checksum, opaque = found.groups()
            if head != last_head:
                if len(head) > self._head_bytes_max:
                    break
                parsed = heads.get(head) or self._parse_head(head)
                if parsed is None or parsed.length + HEADER_SIZE > self._limits.record_bytes_max:
                    break
                if run is None or topic != parsed.topic or partition != parsed.partition:
                    _check_opaques(run, commands)
                    topic, partition = parsed.topic, parsed.partition
                    run = Puts(topic, partition)
                    add_body, add_flag = run.bodies.append, run.flags.append
                    add_checksum, add_opaque = run.checksums.append, run.opaques.append
                    commands.append(run)
                length, flag, last_head = parsed.length, parsed.flag, head
            body = found.end()
            following = body + length
            if following > size:
                _check_opaques(run, commands)
                if run is not None and not run.opaques:
                    commands.pop()
                self._keep(data, position, following - position)
                return -1
            add_body(data[body:following])
            add_flag(flag)
            add_checksum(checksum)
            add_opaque(opaque)
            position = following
        _check_opaques(run, commands)
        if run is not None and not run.opaques:
            commands.pop()
        return position

    def _parse_head(self, head: bytes) -> _Head | None:
        """None where a number is out of range: the slow path then says which, with the opaque."""
        _, topic, partition, length, flag = head.decode("ascii").split(" ")
        try:
            parsed = _Head(
                topic,
                _int32(partition, "partition"),
                _length(length, self._limits.body_bytes_max),
                _int32(flag, "flag"),
            )
        except ProtocolError:
            return None
        if len(self._heads) >= _HEADS_MAX:
            self._heads.clear()
        self._heads[head] = parsed
        return parsed

    def _decode_other(self, data: bytes, position: int, commands: list[Command]) -> int:
        """One frame of any kind; the position behind it, or -1 when the rest was kept or skipped."""
        line_max = self._limits.line_bytes_max
        end = data.find(b"\r\n", position, position + line_max + 2)
        if end < 0:
            if len(data) - position > line_max + 1:
                _fail(f"line longer than {line_max} bytes (maxLineBytes)")
            self._keep(data, position, len(data) - position + 1)
            return -1
        words = data[position:end].decode(errors="replace").split(" ")
        while words and not words[-1]:
            words.pop()
        parsed = self._parse_words(words)
        body = end + 2
        if not isinstance(parsed, _BodyDue):
            commands.append(parsed)
            if isinstance(parsed, OversizedPut):
                following = body + parsed.length
                self._skip = max(0, following - len(data))
                return -1 if self._skip else following
            return body
        following = body + parsed.length
        if following > len(data):
            self._keep(data, position, following - position)
            return -1
        command = parsed.make(data[body:following])
        if command is not None:
            commands.append(command)
        return following

    def _parse_words(self, words: list[str]) -> Command | _BodyDue:
        if not words:
            _fail("empty line")
        match words[0]:
            case "put":
                return self._parse_put(words)
            case "putbatch":
                return self._parse_put_batch(words)
            case "get":
                return _parse_get(words)
            case "offset":
                return _parse_offset_query(words)
            case "epochs":
                return _parse_epochs_query(words)
            case "stats":
                opaque = words[2] if len(words) > 2 else ""
                item = words[1] if len(words) > 1 else ""
                return Stats(item, _opaque(opaque) if opaque else OPAQUE_MISSING)
            case "transaction":
                return _parse_transaction(words)
            case "sync":
                return self._parse_sync(words)
            case "pair" | "successor":
                _expect(words, 3)
                kind = Pair if words[0] == "pair" else Successor
                return kind(words[1], _opaque(words[2]))
            case "replicated":
                return self._parse_replicated(words)
            case "result" | "value":
                # A reply, which nobody has asked for.
                count = 4 if words[0] == "result" else 3
                _expect(words, count)
                _opaque(words[count - 1])
                return _BodyDue(_length(words[count - 2], self._limits.body_bytes_max), _ignore)
            case word if word.startswith("v"):
                return Version(_opaque(words[1]) if len(words) > 1 else OPAQUE_MISSING)
            case word if word.startswith("q"):
                return Quit()
            case word:
                _fail(f"unknown command {_shown(word)}")

    def _parse_put(self, words: list[str]) -> OversizedPut | _BodyDue:
        if not 6 <= len(words) <= 8:
            _fail(f"put takes 6 to 8 words, not {len(words)}")
        opaque = _opaque(words[-1])
        _, topic, partition_text, length_text, flag_text = words[:5]
        partition = _int32(partition_text, "partition", opaque)
        length = _length(length_text, self._limits.body_bytes_max, opaque)
        flag = _int32(flag_text, "flag", opaque)
        checksum: int | None = None
        key_text: str | None = None
        if len(words) == 8:
            checksum, key_text = _int32(words[5], "checksum", opaque), words[6]
        elif len(words) == 7:
            if words[5][:1].isdigit() or words[5][:1] == "-":
                checksum = _int32(words[5], "checksum", opaque)
            else:
                key_text = words[5]
        key = None if key_text is None else _transaction_key(key_text, opaque)
        if length + HEADER_SIZE > self._limits.record_bytes_max:
            return OversizedPut(topic, partition, length, opaque)
        if key is not None:
            return _BodyDue(
                length, lambda body: TransactionalPut(topic, partition, body, flag, checksum, key, opaque)
            )
        checksum_text = None if checksum is None else b"%d" % checksum
        return _BodyDue(
            length,
            lambda body: Puts(topic, partition, [body], [flag], [checksum_text], [b"%d" % opaque]),
        )

    def _parse_put_batch(self, words: list[str]) -> _BodyDue:
        _expect(words, 5)
        _, topic, partition_text, length_text, opaque_text = words[:5]
        opaque = _opaque(opaque_text)
        partition = _int32(partition_text, "partition", opaque)
        length = _length(length_text, self._limits.body_bytes_max, opaque)
        return _BodyDue(length, lambda body: PutBatch(topic, partition, body, opaque))

    def _parse_sync(self, words: list[str]) -> _BodyDue:
        if len(words) not in (7, 8):
            _fail(f"sync takes 7 or 8 words, not {len(words)}")
        opaque = _opaque(words[-1])
        partition = _int32(words[2], "partition", opaque)
        length = _length(words[3], self._limits.body_bytes_max, opaque)
        flag = _int32(words[4], "flag", opaque)
        message_id = _int64(words[5], "message id", opaque)
        checksum = _int32(words[6], "checksum", opaque) if len(words) == 8 else None
        return _BodyDue(
            length, lambda body: Sync(words[1], partition, body, flag, message_id, checksum, opaque)
        )

    def _parse_replicated(self, words: list[str]) -> _BodyDue:
        _expect(words, 5)
        _, slave_group, slave_id_text, length_text, opaque_text = words[:5]
        opaque = _opaque(opaque_text)
        slave_id = _int32(slave_id_text, "slave id", opaque)
        length = _length(length_text, self._limits.body_bytes_max, opaque)
        return _BodyDue(
            length, lambda body: Replicated(slave_group, slave_id, _parse_positions(body, opaque), opaque)
        )


def _parse_positions(body: bytes, opaque: int) -> tuple[ReplicaPosition, ...]:
    """A line for each partition, ended by CR LF like every line."""
    lines = body.decode(errors="replace").split("\r\n")
    if lines.pop():
        _fail("the last position does not end with CR LF", opaque)
    found = []
    for line in lines:
        words = line.split(" ")
        if len(words) != _POSITION_WORDS:
            _fail(f"a position takes {_POSITION_WORDS} words, not {len(words)}", opaque)
        topic, partition, memory_text, disk_text = words
        memory_offset = _int64(memory_text, "memory offset", opaque)
        disk_offset = _int64(disk_text, "disk offset", opaque)
        if not 0 <= disk_offset <= memory_offset:
            _fail(f"disk offset {disk_offset} is not in 0 to {memory_offset}, the memory offset", opaque)
        number = _int32(partition, "partition", opaque)
        found.append(ReplicaPosition(topic, number, memory_offset, disk_offset))
    return tuple(found)


def _parse_get(words: list[str]) -> Get:
    _expect(words, 7)
    _, topic, group, partition, offset, size_max, opaque_text = words[:7]
    opaque = _opaque(opaque_text)
    wait_ms = _int32(words[7], "wait", opaque) if len(words) > 7 else 0
    return Get(
        topic,
        group,
        _int32(partition, "partition", opaque),
        _int64(offset, "offset", opaque),
        _int32(size_max, "max size", opaque),
        opaque,
        max(0, wait_ms),
        words[8:9] == [ZLIB],
        _condition(words[8], opaque) if len(words) > 8 else None,
    )


def _condition(word: str, opaque: int) -> str | None:
    """Percent-encoded, so that it is a word; any other word means nothing, as to MetaQ."""
    if not word.startswith("where="):
        return None
    try:
        return unquote(word.removeprefix("where="), errors="strict")
    except UnicodeDecodeError:
        _fail("the filter is no UTF-8", opaque)


def _parse_offset_query(words: list[str]) -> OffsetQuery:
    _expect(words, 6)
    _, topic, group, partition, offset, opaque_text = words[:6]
    opaque = _opaque(opaque_text)
    return OffsetQuery(
        topic, group, _int32(partition, "partition", opaque), _int64(offset, "offset", opaque), opaque
    )


def _parse_epochs_query(words: list[str]) -> EpochsQuery:
    _expect(words, 5)
    _, topic, partition, end_offset, opaque_text = words[:5]
    opaque = _opaque(opaque_text)
    return EpochsQuery(
        topic, _int32(partition, "partition", opaque), _int64(end_offset, "offset", opaque), opaque
    )


def _parse_transaction(words: list[str]) -> Transaction:
    if not 5 <= len(words) <= 7:
        _fail(f"transaction takes 5 to 7 words, not {len(words)}")
    opaque = _opaque(words[-1])
    # The third word, the session, is in the key as well.
    _, key_text, _, action, *options = words[:-1]
    if action not in _ACTIONS:
        _fail(f"{_shown(action)} is no type of a transaction command", opaque)
    timeout_text, qualifier = "0", ""
    if len(options) == 2:
        timeout_text, qualifier = options
    elif options and _DIGITS.fullmatch(options[0]):
        timeout_text = options[0]
    elif options:
        qualifier = options[0]
    timeout_seconds = _int32(timeout_text, "timeout", opaque)
    key = None if key_text == NO_KEY else _transaction_key(key_text, opaque)
    return Transaction(_ACTIONS[action], key, timeout_seconds, qualifier, opaque)


def _transaction_key(text: str, opaque: int) -> TransactionKey:
    try:
        return parse_key(text)
    except ValueError as error:
        _fail(f"{_shown(text)} {error}", opaque)


def _ignore(_body: bytes) -> None:
    """Replies sent to a broker are read and dropped (reference wire-protocol section 2)."""


def _check_opaques(run: Puts | None, commands: list[Command]) -> None:
    """The opaques of the last run are 32-bit integers; what came before a wrong one is kept."""
    if run is None or not run.opaques or max(map(len, run.opaques)) <= _OPAQUE_DIGITS_SURE:
        return
    for index, opaque in enumerate(run.opaques):
        if not -(2**31) <= int(opaque) < 2**31:
            for parallel in (run.bodies, run.flags, run.checksums, run.opaques):
                del parallel[index:]
            if index == 0:
                commands.pop()
            _fail(f"opaque {opaque.decode()} is outside of 32 bits")


def _expect(words: list[str], count: int) -> None:
    if len(words) < count:
        _fail(f"{words[0]} takes {count} words, not {len(words)}")


def _integer(text: str, bits: int, what: str, opaque: int | None) -> int:
    if _INTEGER.fullmatch(text) is None:
        _fail(f"{what} {_shown(text)} is no whole number", opaque)
    number = int(text)
    if not -(1 << (bits - 1)) <= number < 1 << (bits - 1):
        _fail(f"{what} {_shown(text)} is outside of {bits} bits", opaque)
    return number


def _int32(text: str, what: str, opaque: int | None = None) -> int:
    return _integer(text, 32, what, opaque)


def _int64(text: str, what: str, opaque: int | None = None) -> int:
    return _integer(text, 64, what, opaque)


def _opaque(text: str) -> int:
    return _integer(text, 32, "opaque", None)


def _length(text: str, limit: int, opaque: int | None = None) -> int:
    length = _integer(text, 32, "length", opaque)
    if length < 0:
        _fail(f"negative length {length}", opaque)
    if length > limit:
        _fail(f"body of {length} bytes is longer than {limit} bytes (maxRequestBytes)", opaque)
    return length


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")


def _fail(reason: str, opaque: int | None = None) -> NoReturn:
    raise ProtocolError(reason, opaque)
