"""What producers and consumers of one session share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from metaserver.client.discovery import Discovery
    from metaserver.client.pool import BrokerPool
    from metaserver.timers import Timers


@attrs.frozen
class Network:
    """The way to the registry and the brokers, and the clock on it."""

    discovery: Discovery
    pool: BrokerPool
    timers: Timers
