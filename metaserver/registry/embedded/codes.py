"""The numbers of ZooKeeper's protocol: operations, errors, events, flags."""

from __future__ import annotations

from enum import IntEnum

import attrs

from metaserver.errors import MetaServerError

XID_EVENT = -1
XID_PING = -2
XID_AUTH = -4
XID_SET_WATCHES = -8

ANY_VERSION = -1
ALL_PERMISSIONS = 31
STATE_CONNECTED = 3
"""The client's state in a watch event."""
EVENT_ZXID = -1
"""A watch event carries no transaction number."""


class Operation(IntEnum):
    """What a request asks for."""

    CREATE = 1
    DELETE = 2
    EXISTS = 3
    GET_DATA = 4
    SET_DATA = 5
    GET_ACL = 6
    SET_ACL = 7
    GET_CHILDREN = 8
    SYNC = 9
    PING = 11
    GET_CHILDREN2 = 12
    CHECK = 13
    MULTI = 14
    CREATE2 = 15
    CHECK_WATCHES = 17
    REMOVE_WATCHES = 18
    MULTI_READ = 22
    AUTH = 100
    SET_WATCHES = 101
    GET_EPHEMERALS = 103
    GET_ALL_CHILDREN_NUMBER = 104
    SET_WATCHES2 = 105
    WHO_AM_I = 107
    CLOSE_SESSION = -11
    ERROR = -1


class Code(IntEnum):
    """How a request ended."""

    OK = 0
    RUNTIME_INCONSISTENCY = -2
    MARSHALLING_ERROR = -5
    UNIMPLEMENTED = -6
    BAD_ARGUMENTS = -8
    NO_NODE = -101
    NO_AUTH = -102
    BAD_VERSION = -103
    NO_CHILDREN_FOR_EPHEMERALS = -108
    NODE_EXISTS = -110
    NOT_EMPTY = -111
    SESSION_EXPIRED = -112
    INVALID_ACL = -114
    AUTH_FAILED = -115
    NO_WATCHER = -121


class Event(IntEnum):
    """What a watch reports."""

    NODE_CREATED = 1
    NODE_DELETED = 2
    NODE_DATA_CHANGED = 3
    NODE_CHILDREN_CHANGED = 4


class WatcherType(IntEnum):
    """Which watches a client means when it takes one back."""

    CHILDREN = 1
    DATA = 2
    ANY = 3


@attrs.define
class RequestRefusedError(MetaServerError):
    """A request that is understood and refused."""

    code: Code

    def __str__(self) -> str:
        """The name of the code."""
        return self.code.name.lower().replace("_", " ")


@attrs.define
class MalformedError(MetaServerError):
    """Bytes that are no request, or no record of the registry's log."""

    reason: str

    def __str__(self) -> str:
        """The reason."""
        return self.reason
