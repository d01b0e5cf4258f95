"""The asynchronous slave: a broker whose log follows a master's, byte for byte.

A slave pulls. For every partition of its master it asks for the bytes behind its own end, verifies
each record, and appends them unchanged, at the offset the master has them. It never appends at any
other offset: where the master cannot give the bytes that belong there, the partition stops and says
why, and what it holds stays readable.

:mod:`progress` decides, without I/O; :mod:`slave` does what it says. :mod:`master` knows where the master is,
and :mod:`config_sync` keeps the slave's configuration in step with its. :mod:`succession` is for two masters.
"""

from metaserver.replication.config_sync import ConfigSync, ConfigSyncReport
from metaserver.replication.master import FixedPlace, MasterFacts, RegisteredPlace
from metaserver.replication.pair import CalledPlace, PairLink
from metaserver.replication.progress import ReplicaProgress, ReplicaState
from metaserver.replication.reports import ReplicaReport, SlaveReport
from metaserver.replication.slave import Slave
from metaserver.replication.succession import Succession, Successor

__all__ = [
    "CalledPlace",
    "ConfigSync",
    "ConfigSyncReport",
    "FixedPlace",
    "MasterFacts",
    "PairLink",
    "RegisteredPlace",
    "ReplicaProgress",
    "ReplicaReport",
    "ReplicaState",
    "Slave",
    "SlaveReport",
    "Succession",
    "Successor",
]
