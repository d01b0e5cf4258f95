"""The wire without sockets: bytes to commands, replies to bytes. Source: reference wire-protocol.

A frame is a line of tokens separated by one space, ended by CR LF, and for some words a body of
exactly LENGTH bytes with nothing behind it::

    put TOPIC PARTITION LENGTH FLAG [CHECKSUM] [TXKEY] OPAQUE     body: the message's data
    putbatch TOPIC PARTITION LENGTH OPAQUE                        body: whole records     (extension)
    get TOPIC GROUP PARTITION OFFSET MAXSIZE OPAQUE [WAIT_MS]     the last word is an extension
    offset TOPIC GROUP PARTITION OFFSET OPAQUE
    stats [ITEM] [OPAQUE]
    version [OPAQUE]
    quit
    transaction TXKEY SESSION TYPE [TIMEOUT] [QUALIFIER] OPAQUE
    replicated SLAVE_GROUP SLAVE_ID LENGTH OPAQUE                 body: positions         (extension)
    sync TOPIC PARTITION LENGTH FLAG MSGID [CHECKSUM] OPAQUE      body: the message's data

    result STATUS LENGTH OPAQUE                                   body: UTF-8 text
    value LENGTH OPAQUE                                           body: records, cut anywhere

The decoders' invariant: any bytes give commands, and at most one :class:`Malformed` as the last of
them; the result does not depend on how the bytes were cut into pieces.
"""

from metaserver.protocol.commands import (
    OPAQUE_MISSING,
    STORED_TEXT,
    ZLIB,
    Command,
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
    Result,
    Stats,
    Status,
    Successor,
    Sync,
    Transaction,
    TransactionalPut,
    Value,
    Version,
)
from metaserver.protocol.decoder import CommandDecoder, Limits
from metaserver.protocol.encoder import (
    encode_epochs_query,
    encode_get,
    encode_offset_query,
    encode_pair,
    encode_put,
    encode_put_batch,
    encode_put_results,
    encode_replicated,
    encode_result,
    encode_stats,
    encode_successor,
    encode_sync,
    encode_transaction,
    encode_transactional_put,
    encode_value_header,
    encode_version,
    encode_zlib_get,
    with_condition,
)
from metaserver.protocol.replies import ReplyDecoder
from metaserver.protocol.transactions import (
    COMMITTED_TEXT,
    PREPARED_TEXT,
    READ_ONLY_TEXT,
    LocalKey,
    TransactionAction,
    TransactionKey,
    XaCode,
    XaKey,
    parse_key,
    parse_xa_failure,
    xa_failure_text,
)

__all__ = [
    "COMMITTED_TEXT",
    "OPAQUE_MISSING",
    "PREPARED_TEXT",
    "READ_ONLY_TEXT",
    "STORED_TEXT",
    "ZLIB",
    "Command",
    "CommandDecoder",
    "EpochsQuery",
    "Get",
    "Limits",
    "LocalKey",
    "Malformed",
    "OffsetQuery",
    "OversizedPut",
    "Pair",
    "PutBatch",
    "Puts",
    "Quit",
    "ReplicaPosition",
    "Replicated",
    "ReplyDecoder",
    "Result",
    "Stats",
    "Status",
    "Successor",
    "Sync",
    "Transaction",
    "TransactionAction",
    "TransactionKey",
    "TransactionalPut",
    "Value",
    "Version",
    "XaCode",
    "XaKey",
    "encode_epochs_query",
    "encode_get",
    "encode_offset_query",
    "encode_pair",
    "encode_put",
    "encode_put_batch",
    "encode_put_results",
    "encode_replicated",
    "encode_result",
    "encode_stats",
    "encode_successor",
    "encode_sync",
    "encode_transaction",
    "encode_transactional_put",
    "encode_value_header",
    "encode_version",
    "encode_zlib_get",
    "parse_key",
    "parse_xa_failure",
    "with_condition",
    "xa_failure_text",
]
