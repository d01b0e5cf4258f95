"""The Python client: one code for trio and asyncio.

::

    async with open_session("metaq://127.0.0.1:8123") as session:
        async with session.producer() as producer:
            await producer.send("test", b"hello")
        async with session.consumer("readers", "test") as consumer:
            async for message in consumer:
                print(message.payload)

:func:`open_session` finds brokers through the registry; :func:`connect` talks to one broker and no other.
:mod:`metaserver.client.blocking` is the same for programs without an event loop.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaserver.client.assignment import assign_blocks, assign_consistently
    from metaserver.client.connection import BrokerConnection, announced_registry_port, connect
    from metaserver.client.consumer import Consumer, ConsumerOptions
    from metaserver.client.dead_letters import LocalDeadLetters, TopicDeadLetters
    from metaserver.client.fetching import FetchReport
    from metaserver.client.filters import by_attribute, by_attribute_pattern, by_condition
    from metaserver.client.held_partition import Lag
    from metaserver.client.lane import Sent
    from metaserver.client.local_store import LocalStore
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
    from metaserver.client.offsets import FileOffsets, MemoryOffsets, OffsetStorage, SqlOffsets
    from metaserver.client.partition import Partition
    from metaserver.client.pending_send import PendingSend
    from metaserver.client.producer import Producer
    from metaserver.client.producer_options import ProducerOptions
    from metaserver.client.profile import Profile, load_profile
    from metaserver.client.read_options import ReadOptions
    from metaserver.client.received import ReceivedMessage
    from metaserver.client.selectors import ConfiguredOrder, KeyHash, RandomChoice, RoundRobin, Selector
    from metaserver.client.session import Session, SessionOptions, open_session
    from metaserver.client.transactions import Transaction, XaResource, Xid

__all__ = [
    "Batch",
    "BatchResult",
    "BrokerConnection",
    "ConfiguredOrder",
    "Consumer",
    "ConsumerOptions",
    "FetchReport",
    "Fetched",
    "FileOffsets",
    "KeyHash",
    "Lag",
    "LocalDeadLetters",
    "LocalStore",
    "MemoryOffsets",
    "Message",
    "Moved",
    "NothingThere",
    "OffsetStorage",
    "OutgoingMessage",
    "Partition",
    "PendingSend",
    "Producer",
    "ProducerOptions",
    "Profile",
    "PutResult",
    "RandomChoice",
    "ReadOptions",
    "ReceivedMessage",
    "RoundRobin",
    "Selector",
    "Sent",
    "Session",
    "SessionOptions",
    "SqlOffsets",
    "TopicDeadLetters",
    "Transaction",
    "XaResource",
    "Xid",
    "announced_registry_port",
    "assign_blocks",
    "assign_consistently",
    "by_attribute",
    "by_attribute_pattern",
    "by_condition",
    "connect",
    "load_profile",
    "open_session",
]

# A broker needs the connection and nothing else; what it does not import, its start does not wait for.
_HOMES = {
    "Batch": "metaserver.client.messages",
    "BatchResult": "metaserver.client.messages",
    "BrokerConnection": "metaserver.client.connection",
    "ConfiguredOrder": "metaserver.client.selectors",
    "Consumer": "metaserver.client.consumer",
    "ConsumerOptions": "metaserver.client.consumer",
    "FetchReport": "metaserver.client.fetching",
    "Fetched": "metaserver.client.messages",
    "FileOffsets": "metaserver.client.offsets",
    "KeyHash": "metaserver.client.selectors",
    "Lag": "metaserver.client.held_partition",
    "LocalDeadLetters": "metaserver.client.dead_letters",
    "LocalStore": "metaserver.client.local_store",
    "MemoryOffsets": "metaserver.client.offsets",
    "Message": "metaserver.client.messages",
    "Moved": "metaserver.client.messages",
    "NothingThere": "metaserver.client.messages",
    "OffsetStorage": "metaserver.client.offsets",
    "OutgoingMessage": "metaserver.client.messages",
    "Partition": "metaserver.client.partition",
    "PendingSend": "metaserver.client.pending_send",
    "Producer": "metaserver.client.producer",
    "ProducerOptions": "metaserver.client.producer_options",
    "Profile": "metaserver.client.profile",
    "PutResult": "metaserver.client.messages",
    "RandomChoice": "metaserver.client.selectors",
    "ReadOptions": "metaserver.client.read_options",
    "ReceivedMessage": "metaserver.client.received",
    "RoundRobin": "metaserver.client.selectors",
    "Selector": "metaserver.client.selectors",
    "Sent": "metaserver.client.lane",
    "Session": "metaserver.client.session",
    "SessionOptions": "metaserver.client.session",
    "SqlOffsets": "metaserver.client.offsets",
    "TopicDeadLetters": "metaserver.client.dead_letters",
    "Transaction": "metaserver.client.transactions",
    "XaResource": "metaserver.client.transactions",
    "Xid": "metaserver.client.transactions",
    "announced_registry_port": "metaserver.client.connection",
    "assign_blocks": "metaserver.client.assignment",
    "assign_consistently": "metaserver.client.assignment",
    "by_attribute": "metaserver.client.filters",
    "by_attribute_pattern": "metaserver.client.filters",
    "by_condition": "metaserver.client.filters",
    "connect": "metaserver.client.connection",
    "load_profile": "metaserver.client.profile",
    "open_session": "metaserver.client.session",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
