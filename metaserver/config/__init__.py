"""The configuration: MetaQ's files, read as MetaQ wrote them, to frozen values.

::

    conf/server.ini              ──▶ load_server_config ──▶ ServerConfig ── topics ──▶ TopicConfig
    conf/async_slave.properties  ──▶ load_slave_config  ──▶ SlaveConfig
    conf/gregor_slave.properties ──▶ load_slave_config  ──▶ SlaveConfig, is_gregor
    conf/samsa_master.properties ──▶ load_pair_config   ──▶ PairConfig; apply_pair: puts wait for the slave
                                     apply_slave: the slave's own port, path and host name win
                                     diff_configs, adopt_topics: a reload

A file gives a complete value or one ConfigError with every problem in it. Nothing here watches files, knows
the time or starts anything; imports are kept cheap, because every command begins with them.
"""

from __future__ import annotations

from metaserver.config.cron import next_fire
from metaserver.config.difference import ConfigDiff, adopt_topics, diff_configs
from metaserver.config.models import (
    DeletePolicy,
    PairConfig,
    ServerConfig,
    SlaveConfig,
    TopicConfig,
    ZooKeeperConfig,
)
from metaserver.config.pair import apply_pair, load_pair_config
from metaserver.config.reading import base_directory_of
from metaserver.config.server import load_server_config, parse_server_config
from metaserver.config.slave import apply_slave, load_slave_config, parse_slave_config

__all__ = [
    "ConfigDiff",
    "DeletePolicy",
    "PairConfig",
    "ServerConfig",
    "SlaveConfig",
    "TopicConfig",
    "ZooKeeperConfig",
    "adopt_topics",
    "apply_pair",
    "apply_slave",
    "base_directory_of",
    "diff_configs",
    "load_pair_config",
    "load_server_config",
    "load_slave_config",
    "next_fire",
    "parse_server_config",
    "parse_slave_config",
]
