"""The client for programs without an event loop: the same session, producer and consumer, with plain calls.

::

    with open_session("metaq://127.0.0.1:8123") as session:
        with session.producer() as producer:
            producer.send("test", b"hello")
        with session.consumer("readers", "test") as consumer:
            for message in consumer:
                print(message.payload)

An event loop runs in one thread for each session; every call crosses over to it. All of it may be used by
many threads at once, but one iteration over a consumer belongs to one thread at a time. What a block began
has ended when the block has: also where Ctrl-C or an error ends it, and also where a generator with such a
block in it is thrown away.

Every call raises what that of :mod:`metaserver.client` raises, and anyio.ClosedResourceError where its block
has ended.
"""

from metaserver.client.blocking.consumer import Consumer
from metaserver.client.blocking.producer import Producer
from metaserver.client.blocking.session import Session, open_session
from metaserver.client.blocking.transactions import Transaction, XaResource

__all__ = ["Consumer", "Producer", "Session", "Transaction", "XaResource", "open_session"]
