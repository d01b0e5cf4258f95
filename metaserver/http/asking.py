"""What a request says: its query, its body. Everything that is wrong is a ProblemError that names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import trio
from starlette.responses import Response

from metaserver.http.problems import HEADERS, ProblemError
from metaserver.names import MAX_OFFSET, is_valid_topic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

_INLINE_BYTES = 32 * 1024
"""What is longer is read or written in a worker thread: it would keep the loop too long."""


@attrs.frozen
class Query:
    """The parameters of a request; each is given once, or not at all."""

    _values: Mapping[str, str]

    @classmethod
    def of(cls, request: Request, *known: str) -> Query:
        """Raises ProblemError for a parameter that is not known, or given twice."""
        pairs = request.query_params.multi_items()
        values = dict(pairs)
        if unknown := [name for name in values if name not in known]:
            names = ", ".join(known) or "none"
            raise ProblemError(400, f"unknown parameter {unknown[0][:60]!r}; the parameters are {names}")
        if len(values) < len(pairs):
            raise ProblemError(400, "a parameter is given twice")
        return cls(values)

    def text(self, name: str, default: str | None = None) -> str:
        """Raises ProblemError where it is missing and has no default."""
        value = self._values.get(name, default)
        if value is None:
            raise ProblemError(400, f"the parameter {name} is missing")
        return value

    def optional(self, name: str) -> str | None:
        """None where it is missing."""
        return self._values.get(name)

    def integer(self, name: str, default: int | None = None, low: int = 0, high: int = MAX_OFFSET) -> int:
        """A decimal number in a range."""
        text = self._values.get(name)
        if text is None and default is not None:
            return default
        return number(self.text(name), name, low, high)


def number(text: str, name: str, low: int = 0, high: int = MAX_OFFSET) -> int:
    """A decimal number in a range; raises ProblemError."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 19 and low <= int(text) <= high:
        return int(text)
    raise ProblemError(400, f"{name} must be a number from {low} to {high}, not {text[:40]!r}")


def topic_of(request: Request) -> str:
    """The topic in the path; raises ProblemError where that is none."""
    topic: str = request.path_params["topic"]
    if not is_valid_topic(topic):
        raise ProblemError(
            404, f"{topic[:100]!r} is no topic: a topic is printable ASCII without blank and slash"
        )
    return topic


async def read_body(request: Request, bytes_max: int, seconds_max: float) -> bytes:
    """All of it. Raises ProblemError where it is longer, or does not come."""
    declared = request.headers.get("content-length", "0")
    too_long = ProblemError(
        413, f"the body of this request may have {bytes_max} bytes", {"limit_bytes": bytes_max}
    )
    if declared.isdigit() and int(declared) > bytes_max:
        raise too_long
    pieces, size = [], 0
    with trio.move_on_after(seconds_max) as scope:
        async for piece in request.stream():
            size += len(piece)
            if size > bytes_max:
                raise too_long
            pieces.append(piece)
    if scope.cancelled_caught:
        raise ProblemError(408, f"the body did not arrive within {seconds_max:g} s")
    return b"".join(pieces)


async def read_json(request: Request, bytes_max: int, seconds_max: float) -> Any:  # noqa: ANN401 - anything
    """The value a body holds; raises ProblemError."""
    check_media_type(request, "application/json")
    body = await read_body(request, bytes_max, seconds_max)
    try:
        if len(body) <= _INLINE_BYTES:
            return json.loads(body)
        return await trio.to_thread.run_sync(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"the body is no JSON: {error}") from None


def media_type(request: Request) -> str:
    """In lower case, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_media_type(request: Request, wanted: str) -> None:
    """Raises ProblemError where the body is something else."""
    found = media_type(request)
    if found != wanted:
        raise ProblemError(415, f"the body must be {wanted} (content-type), not {found[:60] or 'unnamed'}")


async def json_response(content: object, status: int = 200, *, is_long: bool = False) -> Response:
    """``is_long``: it may take a while to write, so a worker thread does it."""
    body = await trio.to_thread.run_sync(_dump, content) if is_long else _dump(content)
    return Response(body, status_code=status, headers={**HEADERS, "content-type": "application/json"})


def _dump(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
