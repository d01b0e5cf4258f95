"""Options of a client from a file: ``[profiles.NAME]`` tables in ``client.toml``.

::

    profile = load_profile("orders")
    async with open_session(profile.servers, profile.session) as session:
        async with session.consumer(profile.group, "test", profile.consumer) as consumer:
            ...

``conf/client.toml`` of the distribution shows every key.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from metaserver.client.assignment import assign_blocks, assign_consistently
from metaserver.client.consumer import ConsumerOptions, check_group
from metaserver.client.producer_options import ProducerOptions
from metaserver.client.read_options import ReadOptions
from metaserver.client.servers import Servers
from metaserver.client.session import SessionOptions
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_VARIABLE: Final = "METASERVER_CLIENT_TOML"
_PLACES: Final = (Path("client.toml"), Path("~/.config/metaserver/client.toml"))
_STRATEGIES: Final = {"blocks": assign_blocks, "consistent": assign_consistently}


@attrs.frozen(kw_only=True)
class Profile:
    """What one table says; what it does not say is as the options have it."""

    name: str
    path: Path
    """The file it is from."""
    servers: str
    """For :func:`metaserver.client.open_session`."""
    group: str = ""
    """Blank where the table names none."""
    session: SessionOptions = attrs.Factory(SessionOptions)
    consumer: ConsumerOptions = attrs.Factory(ConsumerOptions)
    producer: ProducerOptions = attrs.Factory(ProducerOptions)


def load_profile(name: str, path: str | os.PathLike[str] | None = None) -> Profile:
    """Read ``[profiles.NAME]``.

    The file is ``path``; without it that which $METASERVER_CLIENT_TOML names, or else the first there is of
    ``./client.toml`` and ``~/.config/metaserver/client.toml``. Raises ConfigError with every problem of the
    file, also those of other profiles: a profile nobody has used yet is not found wrong in the night.
    """
    file = _find(path)
    try:
        tables = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigError((f"{file}: cannot be read: {error.strerror}",)) from None
    except ValueError as error:
        raise ConfigError((f"{file}: {error}",)) from None
    except RecursionError:
        raise ConfigError((f"{file}: it is nested too deep",)) from None
    problems = [
        f"{file}: {key} is unknown; {_nearest(key, ['profiles'])}" for key in tables if key != "profiles"
    ]
    profiles = tables.get("profiles", {})
    if not isinstance(profiles, dict):
        raise ConfigError((*problems, f"{file}: profiles: write a table [profiles.NAME] for each"))
    found = {key: _read(file, key, table, problems) for key, table in profiles.items()}
    if name not in found:
        problems.append(f"{file}: there is no [profiles.{name}]; {_nearest(name, found)}")
    if problems:
        raise ConfigError(tuple(problems))
    return found[name]


def _find(path: str | os.PathLike[str] | None) -> Path:
    if path is not None:
        return Path(path).expanduser()
    named = os.environ.get(_VARIABLE)
    if named:
        return Path(named).expanduser()
    places = [place.expanduser() for place in _PLACES]
    for place in places:
        if place.exists():
            return place
    looked = " nor ".join(map(str, places))
    raise ConfigError((f"there is no file of profiles: neither {looked}; or name one in ${_VARIABLE}",))


# Values: each reader returns what the option wants, or raises ValueError with what would be right.


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("write text in quotes")
    return value


def _servers(value: object) -> str:
    Servers.parse(text := _text(value))
    return text


def _group(value: object) -> str:
    check_group(text := _text(value))
    return text


def _root(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError('it must begin with a slash: "/meta"')
    return text


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false")  # noqa: TRY004 - as of every value
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("write seconds, more than 0")
    return float(value)


def _seconds_or_none(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("write seconds, 0 or more")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("write a whole number, 1 or more")
    return value


def _milliseconds(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("write whole milliseconds, 0 or more")
    return value


def _one_of(choices: Mapping[str, object] | Iterable[str]) -> _Reader:
    known = list(choices)

    def read(value: object) -> object:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"write one of {', '.join(known)}")
        return choices[value] if isinstance(choices, dict) else value

    return read


_Reader: TypeAlias = "Callable[[object], object]"


@attrs.frozen
class Key:
    """One key of a profile."""

    options: type[Any]
    """Whose field it sets."""
    read: _Reader
    field: str = ""
    """Where that has another name."""


KEYS: Final[dict[str, Key]] = {
    "servers": Key(Profile, _servers),
    "root": Key(SessionOptions, _root),
    "registry_timeout_seconds": Key(SessionOptions, _seconds),
    "discovery_seconds": Key(SessionOptions, _seconds),
    "group": Key(Profile, _group),
    "start": Key(ConsumerOptions, _one_of(("earliest", "latest"))),
    "commit": Key(ConsumerOptions, _one_of(("auto", "manual"))),
    "commit_interval_seconds": Key(ConsumerOptions, _seconds),
    "read_from": Key(ConsumerOptions, _one_of(("any", "master", "slave"))),
    "strategy": Key(ConsumerOptions, _one_of(_STRATEGIES)),
    "release_seconds": Key(ConsumerOptions, _seconds_or_none),
    "attempts_max": Key(ConsumerOptions, _count),
    "retry_seconds_min": Key(ConsumerOptions, _seconds),
    "retry_seconds_max": Key(ConsumerOptions, _seconds),
    "concurrency": Key(ConsumerOptions, _count),
    "fetch_bytes": Key(ReadOptions, _count),
    "prefetch_bytes": Key(ReadOptions, _count),
    "wait_ms": Key(ReadOptions, _milliseconds),
    "slave_wait_ms": Key(ReadOptions, _milliseconds),
    "poll_seconds_max": Key(ReadOptions, _seconds),
    "send_timeout_seconds": Key(ProducerOptions, _seconds, "timeout_seconds"),
    "request_timeout_seconds": Key(ProducerOptions, _seconds),
    "batch_bytes_max": Key(ProducerOptions, _count),
    "batch_messages_max": Key(ProducerOptions, _count),
    "linger_seconds": Key(ProducerOptions, _seconds_or_none),
    "buffer_bytes_max": Key(ProducerOptions, _count),
    "retry_unknown": Key(ProducerOptions, _flag),
    "announce_seconds": Key(ProducerOptions, _seconds_or_none),
    "default_topic": Key(ProducerOptions, _text),
}
"""In the order of ``conf/client.toml``."""


def _read(file: Path, name: str, table: object, problems: list[str]) -> Profile:
    """The profile; where something is added to ``problems`` it is not to be used."""
    where = f"{file}: [profiles.{name}]"
    set_fields: dict[type[Any], dict[str, Any]] = {key.options: {} for key in KEYS.values()}
    if not isinstance(table, dict):
        problems.append(f"{where}: must be a table of keys")
        table = {}
    elif "servers" not in table:
        problems.append(f'{where}: servers is required; write servers = "metaq://HOST:8123"')
    for key, value in table.items():
        known = KEYS.get(key)
        if known is None:
            problems.append(f"{where} {key} is unknown; {_nearest(key, KEYS)}")
            continue
        try:
            set_fields[known.options][known.field or key] = known.read(value)
        except ConfigError as error:
            problems += [f"{where} {key}: {problem}" for problem in error.problems]
        except ValueError as error:
            problems.append(f"{where} {key} = {value!r}: {error}")
    read = ReadOptions(**set_fields[ReadOptions])
    own = {"servers": "", **set_fields[Profile]}
    return Profile(
        name=name,
        path=file,
        session=SessionOptions(**set_fields[SessionOptions]),
        consumer=ConsumerOptions(read=read, **set_fields[ConsumerOptions]),
        producer=ProducerOptions(**set_fields[ProducerOptions]),
        **own,
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    known = list(names)
    if not known:
        return "there are none"
    (found, *_) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"do you mean {found}?"
