"""The console as a plain client sees it: pages, headers, who is led where. tests/console has the browser."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.http.console.rendering import (
    describe_bytes,
    describe_count,
    describe_payload,
    describe_seconds,
    load_static,
    visible,
)
from tests.http.http_client import ADMIN, USERS, HttpClient
from tests.support import BrokerProcess, put, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.http_client import Answer

PAGES = ["", "topics", "groups", "replicas", "config", "log", "stats", "process", "login", "topics/test"]
HOSTILE = "<script>alert('x')</script>\"&"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Everybody signs in."""
    process = BrokerProcess(tmp_path_factory.mktemp("console"), settings={"httpUsersFile": "conf/users.toml"})
    users = process.base / "conf" / "users.toml"
    users.parent.mkdir(parents=True)
    users.write_text(USERS, encoding="utf-8")
    with serving(process):
        process.ask(put("test", HOSTILE.encode(), 1))
        process.wait_registered()
        yield process


@pytest.fixture
def admin(client: HttpClient) -> HttpClient:
    return HttpClient(client.port, ADMIN)


def form(client: HttpClient, path: str, body: str, **headers: str) -> Answer:
    return client.request(
        "POST", path, body.encode(), {"content-type": "application/x-www-form-urlencoded", **headers}
    )


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_and_lets_nothing_in(admin: HttpClient, page: str) -> None:
    answer = admin.get(f"/console/{page}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.rstrip().endswith("</html>")
    # All that it refers to is there, and there is neither script nor style in it.
    assert (
        re.findall(
            r"<script(?! src=\"/console/static/console.js\" defer>)|<style|style=|\bon\w+=", answer.text
        )
        == []
    )
    for name in re.findall(r"/console/static/([^\"]+)", answer.text):
        assert admin.get(f"/console/static/{name}").status == 200


def test_what_a_message_holds_is_text(admin: HttpClient) -> None:
    page = admin.get("/console/topics/test/messages").text
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;" in page


def test_whoever_is_not_signed_in_is_led_there_and_back(client: HttpClient) -> None:
    answer = client.get("/console/topics/test/messages", partition=0)
    assert answer.status == 303
    place = answer.headers["location"]
    assert place == "/console/login?next=%2Fconsole%2Ftopics%2Ftest%2Fmessages%3Fpartition%3D0"
    assert (
        'value="/console/topics/test/messages?partition=0"'
        in client.request(
            "GET", "/console/login", None, None, next="/console/topics/test/messages?partition=0"
        ).text
    )
    signed_in = form(client, "/console/login", f"token={ADMIN}&next=%2Fconsole%2Flog")
    assert (signed_in.status, signed_in.headers["location"]) == (303, "/console/log")
    cookie = signed_in.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split("; ", cookie))
    page = client.request("GET", "/console/log", None, {"cookie": cookie.partition(";")[0]})
    assert page.status == 200
    assert "ops (admin)" in page.text


@pytest.mark.parametrize(
    "following",
    [
        "//evil.example/console/",
        "https://evil.example/",
        "/console/%0d%0aset-cookie:x=1",
        "/\\evil",
        "javascript:x",
    ],
)
def test_signing_in_leads_nowhere_else(client: HttpClient, following: str) -> None:
    answer = form(client, "/console/login", f"token={ADMIN}&next={following}")
    assert answer.headers["location"] == "/console/"


def test_a_wrong_token(client: HttpClient) -> None:
    answer = form(client, "/console/login", "token=wrong")
    assert answer.status == 401
    assert "the token is not known here" in answer.text
    assert "set-cookie" not in answer.headers


def test_forms_of_strangers_and_odd_forms(client: HttpClient) -> None:
    assert form(client, "/console/login", f"token={ADMIN}", origin="http://evil.example").status == 403
    assert client.post("/console/login", {}).status == 415
    assert form(client, "/console/login", "x=" + "y" * 70_000).status == 413
    assert form(client, "/console/login", "&".join(f"a{n}=1" for n in range(60))).status == 400
    cookie = form(client, "/console/login", f"token={ADMIN}").headers["set-cookie"].partition(";")[0]
    for path in ("/console/reload", "/console/groups/g/move", "/console/logout"):
        assert form(client, path, "to=end", cookie=cookie).status == 403
        assert form(client, path, "to=end&csrf=%C3%A9", cookie=cookie).status == 403
        assert client.get(path).status == 405


@pytest.mark.parametrize(
    "name", ["../pages.py", "..%2fpages.py", "console.html", "", "/etc/passwd", "console.js/"]
)
def test_no_other_file_is_served(admin: HttpClient, name: str) -> None:
    assert admin.get(f"/console/static/{name}").status == 404


def test_static_files_need_no_token(client: HttpClient) -> None:
    for name, (content, media_type) in load_static().items():
        answer = client.get(f"/console/static/{name}")
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, content, media_type)


def test_a_problem_is_a_page(admin: HttpClient) -> None:
    answer = admin.get("/console/topics/<b>none")
    assert answer.status == 404
    assert "<b>" not in answer.text
    assert admin.get("/console/nothing").headers["content-type"].startswith("text/html")


def test_the_root_leads_to_the_console(client: HttpClient) -> None:
    assert client.get("/").headers["location"] == "/console/"


@given(st.text())
def test_nothing_stays_invisible(text: str) -> None:
    shown = visible(text)
    assert not [
        character
        for character in shown
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in "\n\t"
    ]


@given(st.binary(max_size=2000), st.none() | st.integers(1, 50))
def test_any_payload_can_be_shown(payload: bytes, most: int | None) -> None:
    shown = describe_payload(payload, most)
    shown.encode()
    assert most is None or len(shown) <= most + 1


def test_a_character_cut_in_two_is_no_reason_for_hexadecimal() -> None:
    assert describe_payload("ö".encode() * 100, 3) == "ööö…"
    assert describe_payload(("x" + "ö" * 100).encode(), 3) == "xöö…"
    assert describe_payload(b"\xff\x00") == "ff 00"
    assert describe_payload(b"") == ""


def test_numbers_for_people() -> None:
    assert [describe_bytes(n) for n in (None, 0, 1023, 1536, 1024**4 * 5000)] == [
        "\N{EN DASH}",
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5000.0 TiB",
    ]
    assert [describe_seconds(n) for n in (None, 0.04, 61, 3600, 90061)] == [
        "\N{EN DASH}",
        "0.0 s",
        "1 min 1 s",
        "1 h 0 min",
        "1 d 1 h",
    ]
    assert describe_count(1234567) == "1\u202f234\u202f567"
