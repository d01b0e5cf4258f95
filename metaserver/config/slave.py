"""``async_slave.properties`` to SlaveConfig, and what it replaces in ``server.ini``.

So is ``gregor_slave.properties``, of the slave of a synchronous pair (reference replication B1): it has no
keys at MetaQ, and a few of the same here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from metaserver.config.models import SlaveConfig
from metaserver.config.properties import read_properties
from metaserver.config.reading import absolute, base_directory_of, read_file
from metaserver.config.schema import GREGOR_KEYS, SLAVE_KEYS

if TYPE_CHECKING:
    from metaserver.config.models import ServerConfig


GREGOR_GROUP = "gregor"
"""What the slave of a pair calls itself: a pair has one."""


def load_slave_config(path: Path, *, lenient: bool = False, is_gregor: bool = False) -> SlaveConfig:
    """Read the file; relative paths in it begin beside its ``conf`` directory.

    Raises ConfigError with every problem of the file; lenient: unknown keys are passed over.
    """
    found = parse_slave_config(
        read_file(path),
        source=str(path),
        base_directory=base_directory_of(path),
        lenient=lenient,
        is_gregor=is_gregor,
    )
    # A broker in the background may leave the working directory and still has to find its file.
    return attrs.evolve(found, path=absolute(Path.cwd(), str(path)))


def parse_slave_config(
    text: str | bytes, *, source: str, base_directory: Path, lenient: bool = False, is_gregor: bool = False
) -> SlaveConfig:
    """The same from what a file holds; `source` is its path, as problems name it."""
    fields = read_properties(text, GREGOR_KEYS if is_gregor else SLAVE_KEYS, source=source, lenient=lenient)
    if is_gregor:
        fields |= {"slave_id": 0, "slave_group": GREGOR_GROUP, "is_gregor": True}
    fields.setdefault("slave_group", f"meta-slave-group_{fields['slave_id']}")
    if "data_path" in fields:
        fields["data_path"] = absolute(base_directory, fields["data_path"])
    return SlaveConfig(path=Path(source), **fields)


def apply_slave(server: ServerConfig, slave: SlaveConfig) -> ServerConfig:
    """The configuration of a slave that has the ``server.ini`` of its master beside it.

    A data path of the slave's own holds for everything, also for topics that have one in
    ``server.ini``: on one machine those would be the master's.
    """
    names = ("server_port", "dashboard_http_port", "host_name", "bind_address")
    changes: dict[str, Any] = {
        name: getattr(slave, name) for name in names if getattr(slave, name) is not None
    }
    if slave.data_path is not None:
        changes["data_path"] = changes["data_log_path"] = slave.data_path
        changes["defaults"] = attrs.evolve(server.defaults, data_path=slave.data_path)
        changes["topics"] = tuple(attrs.evolve(topic, data_path=slave.data_path) for topic in server.topics)
    if slave.registry_address is not None:
        changes["zookeeper"] = attrs.evolve(server.zookeeper, connect=slave.registry_address)
    return attrs.evolve(server, **changes)
