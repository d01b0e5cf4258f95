"""The request that carries messages to a partition, and what its answer says of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.client.connection import batch_result, expect_text
from metaserver.client.lane import Sent
from metaserver.message import encode_record, message_id_block
from metaserver.protocol import encode_put, encode_put_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.client.connection import Reply
    from metaserver.client.lane import Outgoing
    from metaserver.client.partition import Partition


def put_request(partition: Partition, messages: Sequence[Outgoing]) -> Callable[[int], bytes]:
    """Makes the frame when it is given the opaque: a ``putbatch``, or for one message a ``put``."""
    topic, number = partition.topic, partition.number
    if len(messages) == 1:
        data, flag = messages[0].data, messages[0].flag
        return lambda opaque: encode_put(topic, number, data, flag, opaque)
    records = b"".join([encode_record(message.data, 0, message.flag) for message in messages])
    return lambda opaque: encode_put_batch(topic, number, records, opaque)


def acknowledged(partition: Partition, messages: Sequence[Outgoing], reply: Reply) -> list[Sent]:
    """Where each of the request's messages is; raises ReplyError (refused), ValueError (not to be read)."""
    if len(messages) == 1:
        message_id, _number, offset = expect_text(reply).split(" ")
        return [Sent(partition, int(message_id), int(offset))]
    result = batch_result(reply)
    at = result.offset
    sent = []
    for message, own_id in zip(messages, message_id_block(result.first_id, len(messages)), strict=True):
        sent.append(Sent(partition, own_id, at))
        at += message.size_bytes
    return sent
