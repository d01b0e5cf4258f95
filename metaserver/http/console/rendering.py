"""Templates to pages: filters for numbers and payloads, headers, worker threads."""

from __future__ import annotations

import unicodedata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from metaserver import __version__
from metaserver.client.message_fields import time_text
from metaserver.config.users import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaserver.http.access import Visitor

HTML_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "content-type": "text/html; charset=utf-8",
}
_FOLDER: Final = Path(__file__).parent
_STATIC_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PREVIEW_CHARACTERS: Final = 300
_SHOWN_BYTES_MAX: Final = 64 * 1024
"""Of one payload, on a page."""
_UNKNOWN: Final = "\N{EN DASH}"
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_HIDDEN_CATEGORIES: Final = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")

NAVIGATION: Final = (
    ("overview", "/console/", "Overview"),
    ("topics", "/console/topics", "Topics"),
    ("groups", "/console/groups", "Groups"),
    ("replicas", "/console/replicas", "Replicas"),
    ("config", "/console/config", "Configuration"),
    ("log", "/console/log", "Log"),
    ("stats", "/console/stats", "Statistics"),
    ("process", "/console/process", "Process"),
)


@attrs.define
class Pages:
    """Renders the templates."""

    _environment: Environment

    @classmethod
    def load(cls) -> Pages:
        """Every template, compiled now: a page must not be the first to find a mistake."""
        environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "size": describe_bytes,
            "count": describe_count,
            "seconds": describe_seconds,
            "time": time_text,
            "payload": describe_payload,
            "visible": visible,
        }
        environment.globals |= {"navigation": NAVIGATION, "version": __version__, "Role": Role}
        for name in environment.list_templates():
            environment.get_template(name)
        return cls(environment)

    async def render(
        self, template: str, visitor: Visitor, values: Mapping[str, Any], *, status: int = 200
    ) -> Response:
        """A page, made in a worker thread; ``values`` must not change meanwhile."""
        found = self._environment.get_template(f"{template}.html")
        render = partial(found.render, values, visitor=visitor, here=template)
        text = await trio.to_thread.run_sync(render)
        return Response(text.encode("utf-8", "replace"), status, HTML_HEADERS)


def load_static() -> dict[str, tuple[bytes, str]]:
    """Every file that pages refer to, and its type, by name: the file system is not asked later."""
    return {
        path.name: (path.read_bytes(), _STATIC_TYPES[path.suffix])
        for path in sorted((_FOLDER / "static").iterdir())
        if path.suffix in _STATIC_TYPES
    }


def describe_bytes(size: float | None) -> str:
    """``1.5 MiB``; a dash where it is not known."""
    if size is None:
        return _UNKNOWN
    value, unit = float(size), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def describe_count(number: float | None) -> str:
    """With thin separators; a dash where it is not known."""
    return _UNKNOWN if number is None else f"{number:,}".replace(",", "\u202f")


def describe_seconds(seconds: float | None) -> str:
    """``2 h 5 min``; a dash where there is nothing to tell."""
    if seconds is None:
        return _UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{value} {unit}" for value, unit in parts[:2])


def describe_payload(payload: bytes, characters_max: int | None = None) -> str:
    """As text with everything invisible shown, or as hexadecimal where it is no text."""
    shown = payload[: characters_max * 4 if characters_max else _SHOWN_BYTES_MAX]
    try:
        text = visible(shown.decode())
    except UnicodeDecodeError as error:
        # A character may have been cut in two at the end.
        is_cut = len(shown) < len(payload) and error.start > len(shown) - 4
        text = visible(shown[: error.start].decode()) if is_cut else shown.hex(" ")
    if characters_max is not None and len(text) > characters_max:
        text = text[:characters_max]
        return f"{text}…"
    return f"{text}…" if len(shown) < len(payload) else text


def visible(text: str) -> str:
    """With a sign for each character that would be invisible, or turn the text around."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return f"\\u{{{ord(character):x}}}"
    return character
