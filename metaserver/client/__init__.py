"""The Python client: one code for trio and asyncio.

::

    async with connect("127.0.0.1", 8123) as broker:
        sent = await broker.put("test", 0, b"hello")
        async for message in broker.follow("test", 0, offset=sent.offset):
            print(message.payload)
"""

from metaserver.client.connection import BrokerConnection, announced_registry_port, connect
from metaserver.client.messages import (
    Batch,
    BatchResult,
    Fetched,
    Message,
    Moved,
    NothingThere,
    OutgoingMessage,
    PutResult,
)

__all__ = [
    "Batch",
    "BatchResult",
    "BrokerConnection",
    "Fetched",
    "Message",
    "Moved",
    "NothingThere",
    "OutgoingMessage",
    "PutResult",
    "announced_registry_port",
    "connect",
]
