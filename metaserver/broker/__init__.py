"""A running message server: the rules, the group commit, the connections.

:class:`Broker` turns commands into replies and never waits. :class:`Committer` appends and syncs for all
partitions. :class:`Server` and ``Connection`` are the trio shells around them.
"""

from metaserver.broker.broker import Broker
from metaserver.broker.committer import CommitStatistics, Committer
from metaserver.broker.disk import DiskGuard
from metaserver.broker.executor import Executor, ThreadExecutor
from metaserver.broker.page_cache import KernelPageCache, PageCache
from metaserver.broker.pair_master import PairMaster
from metaserver.broker.pair_slave import PairSlave
from metaserver.broker.partition import Partition
from metaserver.broker.poller import Poller
from metaserver.broker.retention import Retention
from metaserver.broker.server import Server, open_listener
from metaserver.broker.sink import ReplySink
from metaserver.broker.syncer import KernelSyncer, Syncer, ThreadSyncer, make_syncer
from metaserver.broker.version import GREGOR_VERSION_TEXT, VERSION_TEXT, version_text

__all__ = [
    "GREGOR_VERSION_TEXT",
    "VERSION_TEXT",
    "Broker",
    "CommitStatistics",
    "Committer",
    "DiskGuard",
    "Executor",
    "KernelPageCache",
    "KernelSyncer",
    "PageCache",
    "PairMaster",
    "PairSlave",
    "Partition",
    "Poller",
    "ReplySink",
    "Retention",
    "Server",
    "Syncer",
    "ThreadExecutor",
    "ThreadSyncer",
    "make_syncer",
    "open_listener",
    "version_text",
]
