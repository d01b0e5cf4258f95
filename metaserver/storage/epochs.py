"""Whose bytes a log holds, on its disk (:mod:`metaserver.epochs`).

A small text file inside the partition directory; its last line is a CRC over the lines before::

    metaserver epochs 1
    epoch 1 5f1c0ffee0d15ea5 0
    epoch 2 0a1b2c3d4e5f6071 1310720
    crc 5d0c8a11

A line is number, origin (64 random bits, so that two masters that begin the same number are told apart) and
the offset at which the epoch begins. The line is durable before the first of its bytes is acknowledged, or
appended to a replica.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from metaserver.epochs import EpochChain
from metaserver.errors import CorruptLogError
from metaserver.storage.documents import CRC_LINE, ReplaceSteps, load_document, save_document, seal, unseal
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
_TEXT = re.compile(rf"{_TITLE}\n(?P<lines>(?:{_LINE})*){CRC_LINE}", re.ASCII)


def encode_epochs(chain: EpochChain) -> bytes:
    """The bytes of the file."""
    lines = "".join(f"epoch {epoch}\n" for epoch in chain.epochs)
    return seal(f"{_TITLE}\n{lines}")


def decode_epochs(data: bytes) -> EpochChain | None:
    """What the bytes say; None where they are not exactly what :func:`encode_epochs` makes."""
    match = unseal(data, _TEXT)
    try:
        return None if match is None else EpochChain.parse(match["lines"].replace("epoch ", ""))
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
