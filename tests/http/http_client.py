"""An HTTP client for tests that knows nothing of ours: the standard library's, one connection a request."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import attrs

from tests.support import WAIT_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

ADMIN = "an-administrator's-token"
WRITER = "a-writer's-long-token"
READER = "a-reader's-long-token"
USERS = f"""\
anonymous = "none"
[users.ops]
role = "admin"
token = "{ADMIN}"
[users.shop]
role = "write"
token = "{WRITER}"
[users.eyes]
role = "read"
token = "{READER}"
"""


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - whatever it is
        assert self.headers["content-type"] in ("application/json", "application/problem+json"), self
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The detail of a problem, which it must be."""
        assert self.headers["content-type"] == "application/problem+json", self
        content = self.json()
        assert content["status"] == self.status
        assert set(content) >= {"title", "status", "detail"}
        return str(content["detail"])

    @property
    def text(self) -> str:
        return self.body.decode()


@attrs.frozen
class HttpClient:
    """Of one port of this machine."""

    port: int
    token: str | None = None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        **query: str | int,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS_MAX)
        all_headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        try:
            connection.request(
                method,
                f"{quote(path)}?{urlencode(query)}" if query else quote(path),
                body,
                {**all_headers, **(headers or {})},
            )
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **query: str | int) -> Answer:
        return self.request("GET", path, None, None, **query)

    def post(self, path: str, content: object, **query: str | int) -> Answer:
        body = json.dumps(content).encode()
        return self.request("POST", path, body, {"content-type": "application/json"}, **query)

    def events(
        self, path: str, headers: dict[str, str] | None = None, **query: str | int
    ) -> Iterator[tuple[str, str, Any]]:
        """Name, id and content of each event; the connection ends with the iterator."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS_MAX)
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers=headers or {})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            while line := response.readline():
                text = line.decode().rstrip("\n")
                if text.startswith(":"):
                    continue
                if text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                elif fields:
                    yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
                    fields = {}
        finally:
            connection.close()
