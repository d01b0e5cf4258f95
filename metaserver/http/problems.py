"""What went wrong with a request, as RFC 9457 has it: ``application/problem+json``."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
from starlette.responses import Response

from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Of every answer."""


@attrs.define
class ProblemError(MetaServerError):
    """A request that is answered with an error."""

    status: int
    detail: str
    """What was wrong, and what to do."""
    members: Mapping[str, object] = attrs.Factory(dict)
    """Further members of the answer, for programs."""
    headers: Mapping[str, str] = attrs.Factory(dict)

    def __str__(self) -> str:
        """For people."""
        return self.detail


def problem_response(problem: ProblemError) -> Response:
    """The answer. ``type`` is missing: it is ``about:blank``, the title says it all."""
    content = {
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    return Response(
        json.dumps(content).encode(),
        status_code=problem.status,
        headers={**HEADERS, **problem.headers, "content-type": "application/problem+json"},
    )
