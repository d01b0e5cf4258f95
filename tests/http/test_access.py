"""Who may do what: the doorkeeper alone, with requests as a server hands them on."""

from __future__ import annotations

import base64
from collections import deque

import pytest
import trio
from starlette.requests import Request

from metaserver.config.users import Role, Users, parse_users
from metaserver.http.access import SESSION_SECONDS, SESSIONS_MAX, Access
from metaserver.http.problems import ProblemError
from metaserver.http.server import is_loopback
from tests.http.http_client import ADMIN, READER, USERS, WRITER

USER_LIST = parse_users(USERS.encode(), source="users.toml")


def access(users: Users | None = None, *, on_loopback: bool = True, per_second: int = 0) -> Access:
    return Access(
        lambda: users,
        is_loopback=on_loopback,
        own_hosts=frozenset({"localhost", "broker"}),
        requests_per_second=per_second,
    )


def request(
    method: str = "GET", host: str = "127.0.0.1:8120", peer: str = "127.0.0.1", **headers: str
) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": method,
            "path": "/",
            "query_string": b"",
            "headers": [(b"host", host.encode()), *pairs],
            "client": (peer, 1),
            "server": ("127.0.0.1", 8120),
        }
    )


def refused(door: Access, asked: Request, role: Role, *, is_page: bool = False) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        door.admit(asked, role, is_page=is_page)
    return caught.value


async def test_on_the_loopback_anybody_sends_and_nobody_administers() -> None:
    door = access()
    assert door.admit(request("POST"), Role.WRITE).name == "-"
    problem = refused(door, request(), Role.ADMIN)
    assert problem.status == 401
    assert "httpUsersFile" in problem.detail


async def test_beyond_the_loopback_nobody_does_anything() -> None:
    for role in (Role.READ, Role.WRITE, Role.ADMIN):
        problem = refused(access(on_loopback=False), request(host="broker"), role)
        assert problem.status == 403
        assert "httpUsersFile" in problem.detail


@pytest.mark.parametrize("on_loopback", [True, False])
async def test_users_alone_decide(on_loopback: bool) -> None:
    door = access(USER_LIST, on_loopback=on_loopback)
    assert refused(door, request(), Role.READ).status == 401
    for token, name, role in ((READER, "eyes", 1), (WRITER, "shop", 2), (ADMIN, "ops", 3)):
        asked = request("POST", authorization=f"Bearer {token}")
        for needed in (Role.READ, Role.WRITE, Role.ADMIN):
            if needed <= role:
                assert door.admit(asked, needed).name == name
            else:
                problem = refused(door, asked, needed)
                assert (problem.status, problem.detail[:4]) == (403, name)


async def test_a_token_as_a_password() -> None:
    basic = base64.b64encode(f"anybody:{WRITER}".encode()).decode()
    assert access(USER_LIST).admit(request(authorization=f"Basic {basic}"), Role.WRITE).name == "shop"


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic ?", "Basic eA==", "Digest x", "x"])
async def test_a_wrong_token_is_worse_than_none(header: str) -> None:
    problem = refused(access(USER_LIST), request(authorization=header), Role.READ)
    assert problem.status == 401
    assert "www-authenticate" in problem.headers
    assert refused(access(), request(authorization=header), Role.READ).status == 401


async def test_guessing_is_slowed_down(autojump_clock: trio.testing.MockClock) -> None:
    door = access(USER_LIST)
    statuses = [refused(door, request(authorization=f"Bearer {n}"), Role.READ).status for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    await trio.sleep(1)
    assert refused(door, request(authorization="Bearer x"), Role.READ).status == 401
    assert door.admit(request(authorization=f"Bearer {ADMIN}"), Role.ADMIN).name == "ops"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
async def test_what_a_strange_page_sends_is_refused(headers: dict[str, str]) -> None:
    for door in (access(), access(USER_LIST)):
        for method in ("GET", "POST"):
            asked = request(method, authorization=f"Bearer {ADMIN}", **headers)
            if door.is_loopback and method == "GET":
                assert refused(door, asked, Role.READ).status == 403
            assert refused(door, request(method, **headers), Role.WRITE).status == 403


async def test_a_link_from_elsewhere_leads_to_a_page_and_a_form_does_not() -> None:
    door = access()
    assert door.admit(request(sec_fetch_site="cross-site"), Role.READ, is_page=True).name == "-"
    assert refused(door, request("POST", sec_fetch_site="cross-site"), Role.READ, is_page=True).status == 403


async def test_our_own_pages_may_ask() -> None:
    headers = {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:8120"}
    assert access().admit(request("POST", **headers), Role.WRITE).name == "-"


@pytest.mark.parametrize(
    ("host", "is_fine"),
    [
        ("127.0.0.1:8120", True),
        ("192.0.2.1", True),
        ("[::1]:8120", True),
        ("localhost:8120", True),
        ("LocalHost", True),
        ("broker:8120", True),
        ("rebound.example:8120", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
async def test_a_name_that_is_not_ours_needs_a_token(host: str, is_fine: bool) -> None:
    if is_fine:
        access().admit(request(host=host), Role.READ)
    else:
        assert refused(access(), request(host=host), Role.READ).status == 421
    access(USER_LIST).admit(request(host=host, authorization=f"Bearer {READER}"), Role.READ)


async def test_hosts_of_the_file_are_ours() -> None:
    users = parse_users(b'anonymous = "read"\nhosts = ["Proxy.example"]', source="users.toml")
    access(users).admit(request(host="proxy.example"), Role.READ)
    assert refused(access(users), request(host="other.example"), Role.READ).status == 421


async def test_a_browser_signs_in_and_its_calls_need_its_word(autojump_clock: trio.testing.MockClock) -> None:
    door = access(USER_LIST)
    with pytest.raises(ProblemError, match="not known"):
        door.sign_in("wrong")
    key, signed_in = door.sign_in(ADMIN)
    cookie = f"metaserver_8120={key}"
    visitor = door.admit(request(cookie=cookie), Role.ADMIN)
    assert (visitor.name, visitor.csrf) == ("ops", signed_in.csrf)
    assert refused(door, request("POST", cookie=cookie), Role.ADMIN).status == 403
    assert refused(door, request("POST", cookie=cookie, x_csrf_token="é"), Role.ADMIN).status == 403
    door.admit(request("POST", cookie=cookie, x_csrf_token=signed_in.csrf), Role.ADMIN)
    page = door.admit(request("POST", cookie=cookie), Role.ADMIN, is_page=True)
    with pytest.raises(ProblemError, match="not ours"):
        page.check_csrf("")
    page.check_csrf(signed_in.csrf)
    await trio.sleep(SESSION_SECONDS + 1)
    assert refused(door, request(cookie=cookie), Role.READ).status == 401


async def test_signing_out_and_losing_the_right() -> None:
    users = deque([USER_LIST])
    door = Access(lambda: users[0], is_loopback=True, own_hosts=frozenset(), requests_per_second=0)
    first, second = (door.sign_in(ADMIN)[0] for _ in range(2))
    door.sign_out(request(cookie=f"metaserver_8120={first}"))
    assert refused(door, request(cookie=f"metaserver_8120={first}"), Role.READ).status == 401
    door.admit(request(cookie=f"metaserver_8120={second}"), Role.ADMIN)
    users[0] = Users()
    assert refused(door, request(cookie=f"metaserver_8120={second}"), Role.READ).status == 401


async def test_browsers_that_are_signed_in_are_bounded() -> None:
    door = access(USER_LIST)
    keys = [door.sign_in(READER)[0] for _ in range(SESSIONS_MAX + 1)]
    assert refused(door, request(cookie=f"metaserver_8120={keys[0]}"), Role.READ).status == 401
    door.admit(request(cookie=f"metaserver_8120={keys[1]}"), Role.READ)


async def test_a_rate_is_of_one_address(autojump_clock: trio.testing.MockClock) -> None:
    door = access(per_second=5)
    for _ in range(10):
        door.admit(request(), Role.READ)
    problem = refused(door, request(), Role.READ)
    assert (problem.status, problem.headers["retry-after"]) == (429, "1")
    door.admit(request(peer="127.0.0.2"), Role.READ)
    await trio.sleep(0.25)
    door.admit(request(), Role.READ)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("x", False),
    ],
)
def test_what_the_loopback_is(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
