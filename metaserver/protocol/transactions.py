"""The words of transactions: keys, actions, codes. Source: reference transactions sections 1 and 2."""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum

import attrs

# A session may hold an IPv6 address, which MetaQ's own broker does not take.
_LOCAL = re.compile(r"TX:(.*):(-?[0-9]{1,10})", re.ASCII)
_XA = re.compile(r"XID:(-?[0-9]{1,10}):([0-9a-f]*):([0-9a-f]*):([^:]+)", re.ASCII)
_XA_FAILURE = re.compile(r"XAException:code=(-?[0-9]{1,9}),msg=(.*)", re.DOTALL)
_INT32_MAX = 2**31 - 1

NO_KEY = "null"
"""What stands where a transaction command has no key."""


@attrs.frozen
class LocalKey:
    """A transaction of one connection: ``TX:SESSION:NUMBER``."""

    session: str
    number: int

    def __str__(self) -> str:
        """As on the wire."""
        return f"TX:{self.session}:{self.number}"


@attrs.frozen
class XaKey:
    """A branch of a distributed transaction: ``XID:FORMAT:GTRIDHEX:BQUALHEX:QUALIFIER``."""

    format_id: int
    global_id: str
    """Lower-case hexadecimal, two digits a byte; may be blank, like the next."""
    branch: str
    qualifier: str
    """Whose transaction it is: an application asks for those with its own."""

    def __str__(self) -> str:
        """As on the wire."""
        return f"XID:{self.format_id}:{self.global_id}:{self.branch}:{self.qualifier}"


TransactionKey = LocalKey | XaKey


def parse_key(text: str) -> TransactionKey:
    """Raises ValueError, with a sentence, for anything else than the text that a key gives."""
    key: TransactionKey | None = None
    if found := _LOCAL.fullmatch(text):
        key = LocalKey(found[1], int(found[2]))
    elif found := _XA.fullmatch(text):
        key = XaKey(int(found[1]), found[2], found[3], found[4])
    number = key.number if isinstance(key, LocalKey) else key.format_id if key is not None else 0
    if key is None or str(key) != text or not -_INT32_MAX - 1 <= number <= _INT32_MAX:
        raise ValueError("is no transaction key: write TX:SESSION:NUMBER or XID:FORMAT:GTRID:BQUAL:QUALIFIER")
    return key


class TransactionAction(StrEnum):
    """What a ``transaction`` command asks for."""

    BEGIN = "BEGIN"
    END = "END"
    """No more puts for now; it is not answered."""
    PREPARE = "PREPARE"
    COMMIT_ONE_PHASE = "COMMIT_ONE_PHASE"
    COMMIT_TWO_PHASE = "COMMIT_TWO_PHASE"
    ROLLBACK = "ROLLBACK"
    FORGET = "FORGET"
    RECOVER = "RECOVER"


class XaCode(IntEnum):
    """The numbers of the XA specification that a broker answers."""

    HEURISTIC_ROLLBACK = 6
    HEURISTIC_COMMIT = 7
    ROLLED_BACK = 104
    RESOURCE_ERROR = -3
    UNKNOWN = -4
    PROTOCOL = -6
    UNAVAILABLE = -7
    """The outcome is safe, or nothing has changed: the same call may succeed later."""


PREPARED_TEXT = "0"
"""The reply to PREPARE."""
READ_ONLY_TEXT = "3"
"""The same where nothing was put: the transaction is over."""


COMMITTED_TEXT = "The transaction is committed"
"""Begins the text of a failure that does not mean what any other means: what is missing will come."""


def xa_failure_text(code: int, message: str) -> str:
    """The text of a 500 that an XA client understands."""
    return f"XAException:code={code},msg={message}"


def parse_xa_failure(text: str) -> tuple[int, str] | None:
    """Code and message, where the text has them."""
    found = _XA_FAILURE.fullmatch(text)
    return None if found is None else (int(found[1]), found[2])
