"""Transactions without sockets and without waiting: their states, and the journal that outlives a crash.

:class:`TransactionTable` decides; what it decides is written as entries into one partition of the broker's
own store, so recovery, replication and the tools treat the journal like every log. What is neither prepared
nor committed is in memory only: a crash rolls it back.
"""

from metaserver.transactions.entries import (
    Applied,
    Committed,
    Entry,
    Forgotten,
    Part,
    Prepared,
    RolledBack,
    decode_entry,
    encode_entry,
    split_parts,
)
from metaserver.transactions.redo import drop_present
from metaserver.transactions.replay import Replay, replay
from metaserver.transactions.table import Limits, TransactionTable
from metaserver.transactions.transaction import Batch, State, Transaction

__all__ = [
    "Applied",
    "Batch",
    "Committed",
    "Entry",
    "Forgotten",
    "Limits",
    "Part",
    "Prepared",
    "Replay",
    "RolledBack",
    "State",
    "Transaction",
    "TransactionTable",
    "decode_entry",
    "drop_present",
    "encode_entry",
    "replay",
    "split_parts",
]
