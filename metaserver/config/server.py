"""``server.ini`` to ServerConfig: every problem of the file at once, or a complete value."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from metaserver.config import schema
from metaserver.config.group_filters import group_filters, named_filters
from metaserver.config.ini import parse_ini
from metaserver.config.models import ServerConfig, TopicConfig, ZooKeeperConfig
from metaserver.config.reading import (
    absolute,
    base_directory_of,
    distance,
    read_entries,
    read_file,
    report_unknown,
)
from metaserver.config.text import Problems, decode, excerpt
from metaserver.names import INTERNAL_TOPICS, TOPIC_BYTES_MAX, AckLevel, is_valid_topic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaserver.config.ini import Section

_TOPIC = "topic="


def load_server_config(path: Path, *, lenient: bool = False) -> ServerConfig:
    """Read the file; relative paths in it begin beside its ``conf`` directory.

    Lenient: unknown keys, misspelt sections and backslashes that escape nothing are passed over. Raises
    ConfigError with every problem of the file.
    """
    found = parse_server_config(
        read_file(path), source=str(path), base_directory=base_directory_of(path), lenient=lenient
    )
    # A broker in the background may leave the working directory and still has to find its file.
    return attrs.evolve(found, path=absolute(Path.cwd(), str(path)))


def parse_server_config(
    text: str | bytes, *, source: str, base_directory: Path, lenient: bool = False
) -> ServerConfig:
    """The same from what a file holds; `source` is its path, as problems name it.

    Any text gives a value or ConfigError, and no other exception.
    """
    problems = Problems(source)
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    decoded = text if isinstance(text, str) else decode(text, problems)
    sections = parse_ini(decoded, problems, lenient=lenient)
    if not lenient:
        _report_unknown(sections, problems)

    fields = _system(sections.get("system"), problems, base_directory)
    zookeeper = ZooKeeperConfig(**_section_fields(sections.get("zookeeper"), schema.ZOOKEEPER_KEYS, problems))
    _check_registry_port(sections, fields, zookeeper, problems)
    named = named_filters(sections.get(schema.FILTERS_SECTION), problems)
    own = [
        (
            name.removeprefix(_TOPIC),
            _topic(section, problems, base_directory)
            | group_filters(section, named, problems, lenient=lenient),
        )
        for name, section in sections.items()
        if name.startswith(_TOPIC)
    ]
    if not own:
        problems.add(None, "", "no topic is configured; add a section [topic=NAME]")
    defaults = fields.get("defaults")
    topics = () if defaults is None else tuple(with_own_fields(defaults, *topic) for topic in own)
    _check_ack_levels(sections, defaults, topics, problems)
    problems.raise_if_any()

    return ServerConfig(
        path=Path(source),
        source_bytes=data,
        checksum=zlib.crc32(data),
        warnings=_warnings(source, sections),
        topics=topics,
        zookeeper=zookeeper,
        **fields,
    )


def _warnings(source: str, sections: Mapping[str, Section]) -> tuple[str, ...]:
    """What is allowed, and hardly meant."""
    warnings = Problems(source)
    for section in sections.values():
        for key, earlier in section.replaced:
            counts = section.entries[key]
            if counts.value != earlier.value:
                text = (
                    f"counts for nothing: line {counts.line} sets the key again, to {excerpt(counts.value)}"
                )
                warnings.add(earlier.line, f"[{section.name}] {key}", text)
    return warnings.texts


def with_own_fields(defaults: TopicConfig, name: str, own: Mapping[str, Any]) -> TopicConfig:
    """A topic with these fields of its own and all others as in [system]."""
    inherited = {key.field: getattr(defaults, key.field) for key in schema.TOPIC_KEYS.values()}
    return TopicConfig(name=name, own_fields=frozenset(own), **{**inherited, **own})


def _section_fields(
    section: Section | None, keys: Mapping[str, schema.Key], problems: Problems
) -> dict[str, Any]:
    if section is None:
        return {}
    return read_entries(
        section.entries, keys, problems, section=f"[{section.name}]", section_line=section.line
    )


def _system(section: Section | None, problems: Problems, base_directory: Path) -> dict[str, Any]:
    """Fields of ServerConfig. Incomplete where there are problems."""
    if section is None:
        problems.add(None, "[system]", "the section is missing")
        return {}
    fields = _section_fields(section, schema.SERVER_KEYS, problems)
    defaults = _section_fields(section, schema.DEFAULTS_KEYS, problems)
    fields["data_path"] = absolute(base_directory, fields.get("data_path", os.path.expanduser("~/meta")))  # noqa: PTH111 - Path raises where there is no home
    fields["data_log_path"] = absolute(base_directory, fields.get("data_log_path", fields["data_path"]))
    fields["app_class_path"] = absolute(base_directory, fields.get("app_class_path", "provided"))
    _check_together(section, fields, problems)
    if "http_users_file" in fields:
        fields["http_users_file"] = absolute(base_directory, fields["http_users_file"])
    if all(key.field in defaults for key in schema.DEFAULTS_KEYS.values() if key.is_required):
        fields["defaults"] = TopicConfig(name="", data_path=fields["data_path"], **defaults)
    return fields


def _check_together(section: Section, fields: Mapping[str, Any], problems: Problems) -> None:
    """Values that are right alone and wrong beside one another."""

    def given(key: str) -> int:
        field = schema.SERVER_KEYS[key].field
        value: int = fields.get(field, getattr(attrs.fields(ServerConfig), field).default)
        return value

    def complain(key: str, other: str, text: str) -> None:
        entry = section.entries.get(key) or section.entries.get(other)
        line = section.line if entry is None else entry.line
        problems.add(line, f"[system] {key}", text)

    port = given("serverPort")
    if port and port == given("dashboardHttpPort"):
        complain("dashboardHttpPort", "serverPort", f"is {port} like serverPort; choose another port")
    whole, part = given("maxInflightBytes"), given("maxConnectionInflightBytes")
    if part > whole:
        text = f"is {part}, more than the {whole} of maxInflightBytes; choose at most as much"
        complain("maxConnectionInflightBytes", "maxInflightBytes", text)


def _check_registry_port(
    sections: Mapping[str, Section], fields: Mapping[str, Any], zookeeper: ZooKeeperConfig, problems: Problems
) -> None:
    port = zookeeper.registry_port
    if not zookeeper.is_embedded or not port:
        return
    for key in ("serverPort", "dashboardHttpPort"):
        field = schema.SERVER_KEYS[key].field
        if port == fields.get(field, getattr(attrs.fields(ServerConfig), field).default):
            section = sections.get("zookeeper")
            entry = None if section is None else section.entries.get("registryPort")
            text = f"is {port} like {key}; choose another port"
            problems.add(None if entry is None else entry.line, "[zookeeper] registryPort", text)


def _check_ack_levels(
    sections: Mapping[str, Section],
    defaults: TopicConfig | None,
    topics: Sequence[TopicConfig],
    problems: Problems,
) -> None:
    """Keys that say what a put waits for, and would have no effect beside one another."""
    if defaults is None:
        return
    _check_threshold(sections["system"], defaults, problems)
    for topic in topics:
        section = sections[f"{_TOPIC}{topic.name}"]
        if "unflush_threshold" in topic.own_fields:
            _check_threshold(section, topic, problems)
        if topic.acknowledged.waits_for_slaves:
            continue
        for key in ("minSlaves", "slaveAckTimeoutInMills"):
            if schema.TOPIC_KEYS[key].field in topic.own_fields:
                text = (
                    f"has no effect: a put to this topic waits for no slave (ackLevel={topic.acknowledged}); "
                    "set ackLevel to slave or slave_disk, or remove the key"
                )
                problems.add(section.entries[key].line, f"[{section.name}] {key}", text)


def _check_threshold(section: Section, topic: TopicConfig, problems: Problems) -> None:
    """A threshold lets replies leave before the disk has the message; a level may say that none does."""
    level = topic.ack_level
    if topic.unflush_threshold <= 0 or level is None or level is AckLevel.MEMORY:
        return
    text = (
        f"is {topic.unflush_threshold} and has no effect: with ackLevel={level} every put waits for the "
        "disk; set unflushThreshold=0, or ackLevel=memory"
    )
    problems.add(section.entries["unflushThreshold"].line, f"[{section.name}] unflushThreshold", text)


def _topic(section: Section, problems: Problems, base_directory: Path) -> dict[str, Any]:
    """The fields of TopicConfig that the section sets."""
    where = f"[{section.name}]"
    name = section.name.removeprefix(_TOPIC)
    if not is_valid_topic(name):
        problems.add(
            section.line,
            where,
            f"{excerpt(name)} is no topic name; 1 to {TOPIC_BYTES_MAX} printable ASCII characters are, "
            "without blank or slash",
        )
    if name in INTERNAL_TOPICS:
        problems.add(section.line, where, "is the broker's own topic; choose another name")
    fields = _section_fields(section, schema.TOPIC_KEYS, problems)
    if "data_path" in fields:
        fields["data_path"] = absolute(base_directory, fields["data_path"])
    return fields


def _report_unknown(sections: Mapping[str, Section], problems: Problems) -> None:
    """Unknown keys, and sections whose names come close to one that means something."""
    for name, section in sections.items():
        where = f"[{name}]"
        if name == "system":
            report_unknown(
                section.entries, schema.SYSTEM_KEYS, schema.IGNORED_SYSTEM_NAMES, problems, section=where
            )
        elif name == "zookeeper":
            report_unknown(
                section.entries,
                schema.ZOOKEEPER_KEYS,
                schema.IGNORED_ZOOKEEPER_NAMES,
                problems,
                section=where,
            )
        elif name.startswith(_TOPIC):
            entries = {
                key: entry
                for key, entry in section.entries.items()
                if not key.startswith(schema.FILTER_PREFIX)
            }
            report_unknown(entries, schema.TOPIC_KEYS, schema.IGNORED_TOPIC_NAMES, problems, section=where)
        elif name.lower().startswith("topic"):
            problems.add(section.line, where, "is no known section; write [topic=NAME]")
        else:
            for meant in ("system", "zookeeper", schema.FILTERS_SECTION):
                if name != meant and distance(name.lower()[:16], meant) <= 2:
                    problems.add(section.line, where, f"is no known section; do you mean [{meant}]?")
