from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import pytest

from metaserver.http import HttpLimits, HttpSource
from metaserver.http.access import Access
from metaserver.http.application import Parts, build_application
from metaserver.http.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from starlette.applications import Starlette

SOURCE = HttpSource(
    status=lambda: {"role": "master", "topics": 3},
    metrics=lambda: lambda: b"metaserver_connections 1\n",
    readiness=list,
)


@attrs.define
class Answer:
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


async def request(
    path: str, source: HttpSource = SOURCE, method: str = "GET", headers: dict[str, str] | None = None
) -> Answer:
    """What the application answers to one request, without sockets."""
    answer = Answer()

    async def receive() -> dict[str, Any]:
        raise AssertionError("no page reads the body")

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await build_application(source)(scope, receive, send)
    return answer


async def test_health() -> None:
    answer = await request("/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_health_does_not_ask_the_broker() -> None:
    source = attrs.evolve(SOURCE, readiness=lambda: ["not ready"])
    assert (await request("/healthz", source)).status == 200


async def test_ready() -> None:
    answer = await request("/readyz")
    assert (answer.status, answer.json()) == (200, {"ready": True, "reasons": []})


async def test_not_ready_says_why() -> None:
    source = attrs.evolve(SOURCE, readiness=lambda: ["partition orders-0 takes no puts", "disk full"])
    answer = await request("/readyz", source)
    assert answer.status == 503
    assert answer.json() == {"ready": False, "reasons": ["partition orders-0 takes no puts", "disk full"]}


async def test_status() -> None:
    answer = await request("/api/v1/status")
    assert (answer.status, answer.json()) == (200, {"role": "master", "topics": 3})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


async def test_metrics_are_taken_in_the_loop_and_rendered_beside_it() -> None:
    threads = []

    def render() -> bytes:
        threads.append(threading.current_thread())
        return b"a 1\n"

    def take() -> Callable[[], bytes]:
        threads.append(threading.current_thread())
        return render

    answer = await request("/metrics", attrs.evolve(SOURCE, metrics=take))
    assert (answer.status, answer.body) == (200, b"a 1\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/api/v1", "/api/v1/status/x", "/%00", "/nothing"])
async def test_other_paths_are_not_found_in_json(path: str) -> None:
    answer = await request(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"title": "Not Found", "status": 404, "detail": "there is no such page"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "NONSENSE"])
async def test_pages_can_only_be_read(method: str) -> None:
    answer = await request("/healthz", method=method)
    assert answer.status == 405
    assert answer.json()["detail"] == f"this page does not take the method {method}"
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/healthz", "/nothing"])
@pytest.mark.parametrize("headers", [{"content-length": "1"}, {"transfer-encoding": "chunked"}])
async def test_a_body_is_refused_unread(path: str, headers: dict[str, str]) -> None:
    answer = await request(path, headers=headers)
    assert (answer.status, answer.json()["detail"]) == (413, "this page takes no request body")


async def test_an_empty_body_is_none() -> None:
    assert (await request("/healthz", headers={"content-length": "0"})).status == 200


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/api/v1/status"])
async def test_a_failing_page_goes_on_to_the_server(path: str) -> None:
    # After an answer without details; test_connections.py sees that one.
    def fail() -> NoReturn:
        raise ZeroDivisionError("a secret detail")

    with pytest.raises(ZeroDivisionError):
        await request(path, HttpSource(status=fail, metrics=fail, readiness=fail))


def application_with_parts() -> Starlette:
    """With every route there is; nothing may be asked."""
    access = Access(lambda: None, is_loopback=True, own_hosts=frozenset(), requests_per_second=0)
    door: Any = None
    return build_application(SOURCE, Parts(door, access, HttpLimits(), History(door, door, door)))
