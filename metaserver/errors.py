"""Every error metaserver raises on purpose.

::

    MetaServerError
    ├── ConfigError                 problems of a configuration, all of them at once
    ├── FilterError                 a condition for messages that cannot be read
    ├── ProtocolError               bytes that are no frame; the connection closes
    ├── RefusedError                a request that is understood and refused: status and text
    ├── TransactionError            a command that its transaction's state does not allow
    ├── StorageError
    │   ├── CorruptLogError         bytes that are no record where one must be
    │   ├── OffsetOutOfRangeError   a position the log does not hold
    │   │   └── OffsetInHoleError   a position inside a damaged range or a missing piece
    │   ├── DiskFullError           nothing was written; the same call may succeed later
    │   ├── LogFailedError          a write or fsync failed; the log takes no more appends
    │   ├── DivergedLogError        a replica holds what its master does not
    │   └── DirectoryLockedError    another broker owns the data directory
    ├── ControlError                the control socket of a broker cannot be used
    ├── ZooKeeperError              ZooKeeper did not do what was asked
    │   ├── ConnectionLostError     no connection, or it broke before the answer
    │   └── NodeFailedError         something about a node was refused
    └── ClientError
        ├── BrokerUnreachableError  no connection, or it broke before the reply
        ├── RequestTimeoutError     no reply in time; the request's fate is unknown
        ├── ReplyError              the broker answered with a status other than 200
        ├── DiscoveryError          the registry cannot be used
        ├── NoPartitionError        no broker takes, or has, such messages now
        ├── SendError               a message was not acknowledged
        │   ├── SendRefusedError    the broker said no: it is not stored
        │   ├── SendFailedError     it never left: it is not stored
        │   └── SendUnknownError    no answer came: it may be stored or not
        ├── SendManyError           of several messages, some were not acknowledged
        ├── TransactionFailedError  a transaction is not committed, and its messages are gone
        ├── TransactionUnknownError whether it is committed, or durably, is not known
        ├── XaError                 a broker's answer to a transaction manager
        ├── OffsetStorageError      offsets of a group cannot be read or written
        │   ├── OffsetConflictError somebody else has written them meanwhile
        │   └── OffsetUnreadableError what is stored of some partitions is no offset
        ├── HandlerFailedError      an application's handler failed on a message too often
        └── LocalStoreError         messages cannot be kept on, or read from, the local disk

Errors carry fields; the text is made from them in one place, so that a log line, a reply and a
terminal say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pathlib import Path


class MetaServerError(Exception):
    """The root of the tree."""


@attrs.define
class ConfigError(MetaServerError):
    """A configuration that cannot be used."""

    problems: tuple[str, ...]
    """One sentence each: file, line, section, key, what is wrong, what would be right."""

    def __str__(self) -> str:
        """All problems, a line each."""
        return "\n".join(self.problems)


@attrs.define
class FilterError(MetaServerError):
    """A condition for messages that cannot be read."""

    text: str
    position: int
    """Where, counted from 0."""
    reason: str

    def __str__(self) -> str:
        """Reason and place."""
        shown = self.text[max(0, self.position - 20) : self.position + 20]
        return f"{self.reason}, at character {self.position + 1} of the filter (near {shown!r})"


@attrs.define
class ProtocolError(MetaServerError):
    """Bytes on a connection that are no frame of the protocol."""

    reason: str
    opaque: int | None = None
    """The frame's correlation number, where it could be read."""

    def __str__(self) -> str:
        """The reason."""
        return self.reason


@attrs.define
class RefusedError(MetaServerError):
    """A request that is refused; the reply carries exactly this status and text."""

    status: int
    text: str

    def __str__(self) -> str:
        """The text of the reply."""
        return self.text


@attrs.define
class TransactionError(MetaServerError):
    """A transaction that is not there, or whose state does not allow what was asked."""

    message: str
    code: int | None = None
    """Of the XA specification; None where only the sentence is told."""

    def __str__(self) -> str:
        """The sentence."""
        return self.message


class StorageError(MetaServerError):
    """The log, or its directory, cannot do what was asked."""


@attrs.define
class CorruptLogError(StorageError):
    """Bytes that are no record where one must be."""

    path: Path
    position: int
    """Position in the file, in bytes."""
    reason: str

    def __str__(self) -> str:
        """File, position and reason."""
        return f"{self.path} is damaged at position {self.position}: {self.reason}"


@attrs.define
class OffsetOutOfRangeError(StorageError):
    """A position the log does not hold."""

    requested: int
    start: int
    """The first offset held."""
    end: int
    """The offset behind the last byte that may be read."""

    def __str__(self) -> str:
        """The offset beside the range."""
        return f"offset {self.requested} is outside of {self.start}..{self.end}"


@attrs.define
class OffsetInHoleError(OffsetOutOfRangeError):
    """A position inside a damaged range, or where a piece of the log is missing."""

    next_offset: int
    """The first offset behind it that may be readable."""

    def __str__(self) -> str:
        """The offset, and where to go on."""
        return f"offset {self.requested} is damaged or missing; the log goes on at {self.next_offset}"


@attrs.define
class DiskFullError(StorageError):
    """There is no room. Nothing was written; the same call may succeed later."""

    path: Path
    free_bytes: int

    def __str__(self) -> str:
        """Where, and how much is left."""
        return f"no space left for {self.path}: {self.free_bytes} bytes are free"


@attrs.define
class LogFailedError(StorageError):
    """A write or fsync of this log has failed; it takes no more appends until the broker restarts."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """Which log, and why."""
        return f"{self.path} takes no more messages after a disk error: {self.reason}"

    def unclear(self) -> UnclearWriteError:
        """The same, of the very write over which the disk failed."""
        return UnclearWriteError(self.path, self.reason)


UNCLEAR_TEXT = "It may be stored all the same"
"""In the answer to a put whose fate the broker does not know."""


@attrs.define
class UnclearWriteError(LogFailedError):
    """The disk failed over this very write, and a restart or a power cut may bring records of it to light."""

    def __str__(self) -> str:
        """As of the log, and what that means for the message."""
        return f"{super().__str__()}. {UNCLEAR_TEXT}: a restart tells"


@attrs.define
class DivergedLogError(StorageError):
    """A replica holds bytes its master does not hold."""

    path: Path
    local_end: int
    master_end: int

    def __str__(self) -> str:
        """Both ends."""
        return f"{self.path} ends at {self.local_end}, its master at {self.master_end}: the histories differ"


@attrs.define
class PartitionRemovedError(StorageError):
    """A partition that was taken out of service while somebody was at work with its log."""

    topic: str
    partition: int

    def __str__(self) -> str:
        """Which one."""
        return f"{self.topic}-{self.partition} is not served any more: its topic was deleted"


@attrs.define
class FencedError(StorageError):
    """Another broker is registered in this one's place, so it takes no more messages."""

    rival: str

    def __str__(self) -> str:
        """For producers and for operators."""
        return (
            f"This broker is no longer the master: {self.rival}. It takes no messages until it is restarted, "
            "send to the other"
        )


@attrs.define
class DirectoryLockedError(StorageError):
    """Another broker owns the data directory."""

    path: Path
    owner: str
    """What the owner wrote into the lock file."""

    def __str__(self) -> str:
        """The directory and its owner."""
        return f"data directory {self.path} is in use by {self.owner}"


@attrs.define
class ControlError(MetaServerError):
    """The control socket of a broker cannot be used."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """Socket and reason."""
        return f"control socket {self.path}: {self.reason}"


class ControlRefusedError(ControlError):
    """The socket is well: the broker does not do what was asked."""

    def __str__(self) -> str:
        """In the broker's words."""
        return self.reason


class ZooKeeperError(MetaServerError):
    """ZooKeeper did not do what was asked."""


@attrs.define
class ConnectionLostError(ZooKeeperError):
    """There is no connection, or it broke; whether the request was carried out is unknown."""

    servers: str
    reason: str

    def __str__(self) -> str:
        """Servers and reason."""
        return f"no connection to ZooKeeper {self.servers}: {self.reason}"


@attrs.define
class NodeFailedError(ZooKeeperError):
    """ZooKeeper refused something about a node."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Node and reason."""
        return f"ZooKeeper node {self.path}: {self.reason}"


class ClientError(MetaServerError):
    """A request of a client was not answered with success."""


@attrs.define
class BrokerUnreachableError(ClientError):
    """There is no connection, or it broke before the reply came."""

    address: str
    reason: str
    was_sent: bool = True
    """False: the request never left, so the broker has certainly not acted on it."""

    def __str__(self) -> str:
        """Address and reason."""
        return f"broker {self.address} cannot be reached: {self.reason}"


@attrs.define
class RequestTimeoutError(ClientError):
    """No reply came in time; whether the broker acted on the request is unknown."""

    address: str
    seconds: float

    def __str__(self) -> str:
        """Address and the time waited."""
        return f"broker {self.address} did not answer within {self.seconds:g} s"


@attrs.define
class ReplyError(ClientError):
    """The broker answered with a status other than the one that means success."""

    status: int
    text: str

    def __str__(self) -> str:
        """Status and text as they came."""
        return f"{self.status} {self.text}"


@attrs.define
class NotRepairedError(ClientError):
    """A replica cannot be shown to hold the records that belong where bytes are damaged."""

    address: str
    reason: str

    def __str__(self) -> str:
        """Who was asked, and why not."""
        return f"broker {self.address}: {self.reason}"


@attrs.define
class DiscoveryError(ClientError):
    """The registry cannot be used."""

    servers: str
    reason: str

    def __str__(self) -> str:
        """Servers and reason."""
        return f"registry {self.servers}: {self.reason}"


@attrs.define
class NoPartitionError(ClientError):
    """No broker takes messages of this topic, or has any, now."""

    topic: str
    reason: str

    def __str__(self) -> str:
        """Topic and reason."""
        return f"no partition of topic {self.topic} is available: {self.reason}"


@attrs.define
class SendError(ClientError):
    """A message was not acknowledged; the class says what that means."""

    topic: str
    partition: str
    """``B-P``; blank where none was chosen."""
    reason: str
    attempts: int

    def __str__(self) -> str:
        """Where to, and why not."""
        where = f"{self.topic} {self.partition}".rstrip()
        tries = f" (after {self.attempts} attempts)" if self.attempts > 1 else ""
        return f"message to {where} {self.fate}{tries}: {self.reason}"

    @property
    def fate(self) -> str:
        """What has become of the message, in words."""
        return "was not acknowledged"


@attrs.define
class SendRefusedError(SendError):
    """The broker refused the message: it is not stored, and sending it again would not help."""

    status: int = 0

    @property
    def fate(self) -> str:
        """See SendError."""
        return f"was refused with status {self.status}, so not stored"


@attrs.define
class SendFailedError(SendError):
    """The message never left, or was refused for the moment: it is not stored, and may be sent again."""

    @property
    def fate(self) -> str:
        """See SendError."""
        return "was not stored"


@attrs.define
class SendUnknownError(SendError):
    """The message left and no answer came: it may be stored. Sent again, it may be stored twice."""

    @property
    def fate(self) -> str:
        """See SendError."""
        return "may be stored or not"


@attrs.define
class SendManyError(ClientError):
    """Of several messages, some were not acknowledged."""

    outcomes: tuple[object, ...]
    """Of each message, in order: a ``Sent``, or the SendError."""

    @property
    def failures(self) -> tuple[SendError, ...]:
        """The errors alone."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, SendError))

    def __str__(self) -> str:
        """How many, and the first of them."""
        failures = self.failures
        return f"{len(failures)} of {len(self.outcomes)} messages were not acknowledged; first: {failures[0]}"


@attrs.define
class TransactionFailedError(ClientError):
    """A transaction is not committed: nobody will read its messages."""

    key: str
    reason: str

    def __str__(self) -> str:
        """Which, and why."""
        return f"transaction {self.key} is not committed: {self.reason}"


@attrs.define
class TransactionUnknownError(ClientError):
    """No answer to a commit came, or one that promises less than the topics ask for; see the reason."""

    key: str
    reason: str

    def __str__(self) -> str:
        """Which, and why."""
        return f"whether transaction {self.key} is committed and safe is not known: {self.reason}"


@attrs.define
class XaError(ClientError):
    """A broker's answer to a transaction manager that is no success."""

    code: int
    """Of the XA specification: -4 unknown, -6 wrong state, -7 try again, 6 and 7 an operator has decided."""
    message: str

    def __str__(self) -> str:
        """Code and sentence."""
        return f"XA {self.code}: {self.message}"


@attrs.define
class OffsetStorageError(ClientError):
    """Offsets of a group cannot be read or written."""

    storage: str
    """Which one: the registry's servers, a file, a table."""
    reason: str

    def __str__(self) -> str:
        """Storage and reason."""
        return f"offsets in {self.storage}: {self.reason}"


@attrs.define
class OffsetConflictError(OffsetStorageError):
    """Somebody else has written these offsets since they were read here: nothing of them was changed."""

    partitions: tuple[object, ...]
    """Of class ``metaserver.client.Partition``."""


@attrs.define
class OffsetUnreadableError(OffsetStorageError):
    """What is stored for these partitions is no offset; those of others can be read."""

    partitions: tuple[object, ...]
    """Of class ``metaserver.client.Partition``."""


@attrs.define
class HandlerFailedError(ClientError):
    """A handler failed on a message as often as it may; the cause is its last error."""

    partition: str
    offset: int
    attempts: int

    def __str__(self) -> str:
        """Where, and how often."""
        where = f"the message at offset {self.offset} of {self.partition}"
        return f"the handler failed {self.attempts} times on {where}"


@attrs.define
class LocalStoreError(ClientError):
    """Messages cannot be kept on, or read from, the local disk."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """File and reason."""
        return f"local store {self.path}: {self.reason}"
