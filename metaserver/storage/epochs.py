"""Whose bytes a log holds: each start as master begins an epoch, and a replica keeps its master's.

A small text file inside the partition directory; its last line is a CRC over the lines before::

    metaserver epochs 1
    epoch 1 5f1c0ffee0d15ea5 0
    epoch 2 0a1b2c3d4e5f6071 1310720
    crc 5d0c8a11

A line is number, origin (64 random bits, so that two masters that begin the same number are told apart) and
the offset at which the epoch begins. **The invariant:** bytes from an offset on were written by the master of
the last epoch that begins there or before; the line is durable before the first of them is acknowledged, or
appended to a replica.

So two logs are equal up to the offset where the last epoch that both have ends first in one of them, and
differ behind it: :func:`common_end`. What was written before there were epochs is the epoch 0 of nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from metaserver.errors import CorruptLogError
from metaserver.storage.documents import ReplaceSteps, load_document, save_document
from metaserver.storage.filenames import EPOCHS_NAME
from metaserver.storage.filesystem import Point

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage.filesystem import FileSystem

_TITLE = "metaserver epochs 1"
_SIZE_MAX = 4 * 1024 * 1024
_STEPS = ReplaceSteps(
    create=Point.EPOCHS_CREATE,
    write=Point.EPOCHS_WRITE,
    sync=Point.EPOCHS_SYNC,
    rename=Point.EPOCHS_RENAME,
    sync_directory=Point.EPOCHS_SYNC_DIRECTORY,
)
_LINE = r"epoch [0-9]{1,10} [0-9a-f]{16} [0-9]{1,19}\n"
_TEXT = re.compile(rf"{_TITLE}\n(?P<lines>(?:{_LINE})*)crc (?P<crc>[0-9a-f]{{8}})\n", re.ASCII)


@attrs.frozen
class Epoch:
    """One master's time at one log."""

    number: int
    """Grows by one from master to master."""
    origin: int
    """Random, 64 bits; 0 in the epoch before all others."""
    start_offset: int
    """Of the first byte it may have written."""

    def __str__(self) -> str:
        """As in the file and on the wire."""
        return f"{self.number} {self.origin:016x} {self.start_offset}"


@attrs.frozen
class EpochChain:
    """The epochs of one log, in order."""

    epochs: tuple[Epoch, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Numbers grow, offsets do not step back; raises ValueError otherwise."""
        for before, after in zip(self.epochs, self.epochs[1:], strict=False):
            if after.number <= before.number or after.start_offset < before.start_offset:
                raise ValueError(f"epoch {after} cannot follow epoch {before}")

    def begin(self, origin: int, end_offset: int) -> EpochChain:
        """A master begins to write at ``end_offset``. An epoch that wrote nothing is replaced."""
        number = self.epochs[-1].number + 1 if self.epochs else 1
        return EpochChain((*self.until(end_offset).epochs, Epoch(number, origin, end_offset)))

    def until(self, end_offset: int) -> EpochChain:
        """Without the epochs that have written nothing before ``end_offset``."""
        return EpochChain(tuple(epoch for epoch in self.epochs if epoch.start_offset < end_offset))

    def whole(self, log_start: int) -> tuple[Epoch, ...]:
        """With the epoch of nobody in front, where the log begins before the first one."""
        if self.epochs and self.epochs[0].start_offset <= log_start:
            return self.epochs
        return (Epoch(0, 0, 0), *self.epochs)

    @classmethod
    def parse(cls, text: str) -> EpochChain:
        """Lines of NUMBER ORIGIN OFFSET; raises ValueError."""
        epochs = []
        for line in text.splitlines():
            number, origin, start_offset = line.split(" ")
            epochs.append(Epoch(int(number), int(origin, 16), int(start_offset)))
        return cls(tuple(epochs))

    def __str__(self) -> str:
        """What :meth:`parse` reads."""
        return "".join(f"{epoch}\n" for epoch in self.epochs)


@attrs.frozen
class LogHistory:
    """What two replicas tell each other of a log."""

    chain: EpochChain
    start_offset: int
    end_offset: int


def common_end(one: LogHistory, other: LogHistory) -> int | None:
    """The offset up to which both logs hold the same bytes; None where they have no epoch in common."""
    mine, theirs = one.chain.whole(one.start_offset), other.chain.whole(other.start_offset)
    found: int | None = None
    ends_of_theirs = {
        (epoch.number, epoch.origin): end for epoch, end in _with_ends(theirs, other.end_offset)
    }
    for epoch, end in _with_ends(mine, one.end_offset):
        end_of_theirs = ends_of_theirs.get((epoch.number, epoch.origin))
        if end_of_theirs is not None:
            found = min(end, end_of_theirs)
    return found


def _with_ends(epochs: tuple[Epoch, ...], log_end: int) -> list[tuple[Epoch, int]]:
    ends = [epoch.start_offset for epoch in epochs[1:]] + [log_end]
    return [(epoch, min(end, log_end)) for epoch, end in zip(epochs, ends, strict=True)]


def encode_epochs(chain: EpochChain) -> bytes:
    """The bytes of the file."""
    lines = "".join(f"epoch {epoch}\n" for epoch in chain.epochs)
    text = f"{_TITLE}\n{lines}".encode()
    return text + f"crc {crc32(text):08x}\n".encode()


def decode_epochs(data: bytes) -> EpochChain | None:
    """What the bytes say; None where they are not exactly what :func:`encode_epochs` makes."""
    try:
        match = _TEXT.fullmatch(data.decode("ascii"))
        if match is None or int(match["crc"], 16) != crc32(data[: match.start("crc") - len("crc ")]):
            return None
        return EpochChain.parse(match["lines"].replace("epoch ", ""))
    except ValueError:
        return None


@attrs.define(eq=False)
class LogEpochs:
    """The epochs of one partition, in memory and on disk. One caller at a time changes them."""

    _filesystem: FileSystem
    _directory: Path
    chain: EpochChain

    def begin(self, origin: int, end_offset: int) -> None:
        """A master begins to write; durable when it returns. Raises OSError: then it must not write."""
        self._save(self.chain.begin(origin, end_offset))

    def adopt(self, chain: EpochChain) -> None:
        """A replica takes its master's; durable when it returns. Raises OSError."""
        if chain != self.chain:
            self._save(chain)

    def _save(self, chain: EpochChain) -> None:
        save_epochs(self._filesystem, self._directory, chain)
        self.chain = chain


def load_epochs(filesystem: FileSystem, directory: Path) -> EpochChain:
    """The epochs of a partition, none where there is no file. Raises OSError and CorruptLogError."""
    path = directory / EPOCHS_NAME
    data = load_document(filesystem, path, Point.EPOCHS_OPEN, _SIZE_MAX)
    if data is None:
        return EpochChain()
    chain = decode_epochs(data)
    if chain is None:
        text = "it says whose bytes the log holds; restore it, or move it away to begin a history anew"
        raise CorruptLogError(path, 0, text)
    return chain


def save_epochs(filesystem: FileSystem, directory: Path, chain: EpochChain) -> None:
    """Replace the file: after a crash it is the old one or the new one. Raises OSError."""
    save_document(filesystem, directory / EPOCHS_NAME, encode_epochs(chain), _STEPS)
