"""A ZooKeeper of one node, for brokers whose users run none.

It speaks ZooKeeper's own client protocol, so kazoo, zkclient and ZooKeeper's command line work with it.
:class:`Registry` is the whole behaviour, without sockets, disk or clock; :class:`RegistryServer` is the
port; :class:`LogJournal` keeps the state in a log of the broker's store.
"""

from metaserver.registry.embedded.journal import Executor, Journal, LogJournal, Syncer
from metaserver.registry.embedded.registry import Registry, RegistryOptions
from metaserver.registry.embedded.server import RegistryServer, RegistryStatistics, ServerOptions

__all__ = [
    "Executor",
    "Journal",
    "LogJournal",
    "Registry",
    "RegistryOptions",
    "RegistryServer",
    "RegistryStatistics",
    "ServerOptions",
    "Syncer",
]
