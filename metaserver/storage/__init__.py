"""The log: what is on disk, and how it is written, read, recovered and cleaned up.

A partition is a directory, a directory holds segments, a segment holds records back to back. An offset
is the position of a byte counted from the partition's first byte ever, so it is the start offset in
the segment's name plus the position in the file::

    data/
    ├── .lock                                 who owns the directory, while somebody does
    └── orders-0/                             topic "orders", partition 0
        ├── 00000000000000000000.meta         offsets 0 to 43
        ├── 00000000000000000044.meta         offset 44 on; the last segment takes the appends
        ├── epochs                            whose bytes they are
        └── recovery.checkpoint               how much is known to be good

A record is a 20-byte header and its data (:mod:`metaserver.message`). The message ``hello`` with the
id 1 and no attribute::

    00 00 00 05   36 10 a6 86   00 00 00 00 00 00 00 01   00 00 00 00   68 65 6c 6c 6f
    length 5      checksum      message id 1              flag 0        h  e  l  l  o

Twenty-five bytes: were it the first of the log, the next would have offset 25. There is no header, no
footer, no padding and no index. A segment that has reached the configured size is sealed and the next
begins at exactly the offset where it ends.

The package is synchronous; the filesystem and the clock are handed in. ``docs/log-format.md`` is the
long form, with the order of writes and what each crash leaves behind.
"""

from metaserver.storage.deleted import DeletedLog, deleted_logs, put_aside
from metaserver.storage.epochs import LogEpochs
from metaserver.storage.filesystem import (
    Clock,
    DirectoryLock,
    File,
    FileSystem,
    Point,
    RealFileSystem,
)
from metaserver.storage.log import PartitionLog, PendingFlush
from metaserver.storage.options import StoreOptions
from metaserver.storage.quarantine import (
    Divergence,
    QuarantineReport,
    quarantine_folders,
    quarantine_tail,
)
from metaserver.storage.reading import read_runs
from metaserver.storage.recovery import RecoveryReport
from metaserver.storage.segment import LogSlice, OffsetRange
from metaserver.storage.statistics import LogStatistics
from metaserver.storage.store import MessageStore

__all__ = [
    "Clock",
    "DeletedLog",
    "DirectoryLock",
    "Divergence",
    "File",
    "FileSystem",
    "LogEpochs",
    "LogSlice",
    "LogStatistics",
    "MessageStore",
    "OffsetRange",
    "PartitionLog",
    "PendingFlush",
    "Point",
    "QuarantineReport",
    "RealFileSystem",
    "RecoveryReport",
    "StoreOptions",
    "deleted_logs",
    "put_aside",
    "quarantine_folders",
    "quarantine_tail",
    "read_runs",
]
