from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from metaserver.config.users import Role, User, Users, load_users, parse_users
from metaserver.errors import ConfigError

TOKEN = "0123456789abcdef"
SAMPLE = Path(__file__).resolve().parents[2] / "conf" / "users.toml.sample"


def parse(text: str) -> Users:
    return parse_users(text.encode(), source="users.toml")


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def test_a_token_and_its_digest_name_a_user() -> None:
    digest = sha256(b"another token 16+").hexdigest()
    users = parse(
        f'[users.shop]\nrole = "write"\ntoken = "{TOKEN}"\n'
        f'[users.alice]\nrole = "admin"\ntoken_sha256 = "{digest.upper()}"\n'
    )
    assert users.find(TOKEN) == User("shop", Role.WRITE)
    assert users.find("another token 16+") == User("alice", Role.ADMIN)
    assert users.find("nobody's") is None
    assert users.find("\udc80") is None
    assert users.anonymous is Role.NONE
    assert TOKEN not in repr(users)


def test_roles_include_the_ones_before() -> None:
    assert Role.NONE < Role.READ < Role.WRITE < Role.ADMIN


def test_anonymous_and_hosts() -> None:
    users = parse('anonymous = "read"\nhosts = ["Broker.Example.org"]\n')
    assert (users.anonymous, users.hosts) == (Role.READ, frozenset({"broker.example.org"}))


def test_the_sample_lets_nobody_in() -> None:
    assert load_users(SAMPLE) == Users()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x", "Expected"),
        ("extra = 1", "extra: unknown; the keys are anonymous, hosts, users"),
        ('anonymous = "admin"', "anonymous: may be none, read or write"),
        ('anonymous = "root"', "anonymous: 'root' is no role; the roles are none, read, write, admin"),
        ("hosts = 1", "hosts: must be a list of names"),
        ("users = 1", "users: must be tables"),
        ("[users]\na = 1", "[users.a]: must be a table"),
        ('[users.a]\nrole = "read"', "[users.a]: must have either token or token_sha256"),
        (f'[users.a]\ntoken = "{TOKEN}"', "[users.a] role: None is no role"),
        ('[users.a]\nrole = "read"\ntoken = "short"', "[users.a] token: must be 16 or more"),
        ('[users.a]\nrole = "read"\ntoken = "has blanks in the middle"', "[users.a] token: must be 16"),
        ('[users.a]\nrole = "read"\ntoken_sha256 = "ab"', "[users.a] token_sha256: must be 64"),
        (f'[users.a]\nrole = "read"\ntoken = "{TOKEN}"\nx = 1', "[users.a] x: unknown"),
    ],
)
def test_problems_name_their_place(text: str, problem: str) -> None:
    (found,) = problems_of(text)
    assert found.startswith(f"users.toml: {problem}")


def test_one_token_for_two_names() -> None:
    entry = f'role = "read"\ntoken = "{TOKEN}"\n'
    assert problems_of(f"[users.a]\n{entry}[users.b]\n{entry}") == (
        "users.toml: [users.b]: has the token of a",
    )


def test_all_problems_at_once() -> None:
    assert len(problems_of('x = 1\nanonymous = 2\n[users.a]\nrole = 1\ntoken = "x"')) == 4


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_users(Path("/nonexistent/users.toml"))
