"""metaserver: a message broker with asynchronous master-slave replication, compatible with MetaQ 1.4.6."""

__version__ = "0.1.0"
