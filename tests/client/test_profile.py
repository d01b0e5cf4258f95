"""Profiles: what a file means, what is wrong with it, and which file it is."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from metaserver.client import (
    ConsumerOptions,
    ProducerOptions,
    ReadOptions,
    SessionOptions,
    assign_consistently,
)
from metaserver.client.profile import KEYS, Profile, load_profile
from metaserver.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "conf" / "client.toml"
LINES = SHIPPED.read_text(encoding="utf-8").splitlines()
_ENTRY = re.compile(r"#?([a-z_]+) = (.+)")
SERVERS = 'servers = "metaq://h:1"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "client.toml"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def problems(file: Path, text: str, name: str = "p") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_profile(name, write(file, text))
    assert all(str(file) in problem for problem in caught.value.problems)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


def test_what_is_not_set_is_as_the_options_have_it(file: Path) -> None:
    found = load_profile("p", write(file, f"[profiles.p]\n{SERVERS}"))
    assert found == Profile(name="p", path=file, servers="metaq://h:1")
    assert (found.group, found.consumer, found.producer) == ("", ConsumerOptions(), ProducerOptions())


def test_each_key_sets_its_option(file: Path) -> None:
    text = f"""
        [profiles.other]
        {SERVERS}
        [profiles.p]
        servers = "zookeeper://h:1,i:2/chroot"
        root = "/other"
        registry_timeout_seconds = 1
        group = "g"
        start = "latest"
        commit = "manual"
        read_from = "slave"
        strategy = "consistent"
        fetch_bytes = 5
        send_timeout_seconds = 2.5
        request_timeout_seconds = 3
        linger_seconds = 0.25
        retry_unknown = true
        default_topic = "*"
    """
    assert load_profile("p", write(file, text)) == Profile(
        name="p",
        path=file,
        servers="zookeeper://h:1,i:2/chroot",
        group="g",
        session=SessionOptions(root="/other", registry_timeout_seconds=1.0),
        consumer=ConsumerOptions(
            start="latest",
            commit="manual",
            read_from="slave",
            strategy=assign_consistently,
            read=ReadOptions(fetch_bytes=5),
        ),
        producer=ProducerOptions(
            timeout_seconds=2.5,
            request_timeout_seconds=3.0,
            linger_seconds=0.25,
            retry_unknown=True,
            default_topic="*",
        ),
    )


def test_every_problem_is_told_at_once(file: Path) -> None:
    text = """
        [profile.x]
        [profiles.p]
        servers = "h:1"
        comit = "auto"
        start = "earlyest"
        concurrency = true
        [profiles.q]
        group = "a/b"
        linger_seconds = -1
    """
    assert problems(file, text) == [
        "profile is unknown; do you mean profiles?",
        (
            "[profiles.p] servers: servers 'h:1': it must begin with zookeeper:// or metaq://; "
            "write zookeeper://HOST:2181,HOST:2181 or metaq://HOST:8123"
        ),
        "[profiles.p] comit is unknown; do you mean commit?",
        "[profiles.p] start = 'earlyest': write one of earliest, latest",
        "[profiles.p] concurrency = True: write a whole number, 1 or more",
        '[profiles.q]: servers is required; write servers = "metaq://HOST:8123"',
        "[profiles.q] group: group 'a/b' contains '/'; letters, digits, - and _ are fine",
        "[profiles.q] linger_seconds = -1: write seconds, 0 or more",
    ]


WRONG = {
    "a text": '"x y/"',
    "a number": "-1",
    "a flag": "false",
    "nan": "nan",
    "a table": "{}",
    "blank": '""',
}


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize("key", KEYS)
def test_no_key_takes_everything(file: Path, key: str, value: str) -> None:
    if (key, value) in {("retry_unknown", "false"), ("default_topic", '"x y/"')}:
        return
    servers = "" if key == "servers" else SERVERS
    (problem,) = problems(file, f"[profiles.p]\n{servers}{key} = {value}\n")
    assert problem.startswith(f"[profiles.p] {key}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"[profiles.default]\n{SERVERS}", "there is no [profiles.defualt]; do you mean default?"),
        ("", "there is no [profiles.defualt]; there are none"),
        ("profiles = 3", "profiles: write a table [profiles.NAME] for each"),
        ("[profiles]\ndefualt = 3", "[profiles.defualt]: must be a table of keys"),
        ("[profiles.a", "Expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_a_profile_that_is_not_there(file: Path, text: str, told: str) -> None:
    assert problems(file, text, "defualt") == [told]


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"client\.toml: .*utf-8"):
        load_profile("p", file)


def test_which_file_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("METASERVER_CLIENT_TOML", raising=False)
    with pytest.raises(ConfigError, match=r"neither client\.toml nor .*METASERVER_CLIENT_TOML"):
        load_profile("p")
    text = f"[profiles.p]\n{SERVERS}"
    places = [
        (home / ".config" / "metaserver" / "client.toml", None),
        (here / "client.toml", None),
        (tmp_path / "named.toml", "METASERVER_CLIENT_TOML"),
    ]
    for place, variable in places:
        write(place, text)
        if variable is not None:
            monkeypatch.setenv(variable, str(place))
        assert load_profile("p").path.absolute() == place
    explicit = write(home / "explicit.toml", text)
    assert load_profile("p", explicit).path == explicit
    assert load_profile("p", "~/explicit.toml").path == explicit
    # One that was named is not looked for elsewhere.
    places[2][0].unlink()
    with pytest.raises(ConfigError, match=r"named\.toml: cannot be read: No such file"):
        load_profile("p")


# The file that is shipped.


def test_the_file_shows_every_key_in_order() -> None:
    assert [entry[1] for line in LINES if (entry := _ENTRY.fullmatch(line))] == list(KEYS)


def test_only_servers_is_set() -> None:
    found = load_profile("default", SHIPPED)
    assert found == Profile(name="default", path=SHIPPED, servers="metaq://127.0.0.1:8123")


def test_the_file_without_its_marks_means_the_same(file: Path) -> None:
    lines = [line.removeprefix("#") if _ENTRY.fullmatch(line) else line for line in LINES]
    found = load_profile("default", write(file, "\n".join(lines)))
    assert (found.group, found.producer.default_topic) == ("readers", "*")
    without = attrs.evolve(
        found, path=SHIPPED, group="", producer=attrs.evolve(found.producer, default_topic=None)
    )
    assert without == load_profile("default", SHIPPED)


@pytest.mark.parametrize("key", KEYS)
def test_each_key_is_documented_in_a_line(key: str) -> None:
    (number,) = (n for n, line in enumerate(LINES) if re.match(f"#?{key} = ", line))
    assert LINES[number - 1].startswith("# ")
    assert len(LINES[number - 1]) <= 120


def test_every_option_has_a_key() -> None:
    expected = {
        (options, field.name)
        for options in (SessionOptions, ConsumerOptions, ReadOptions, ProducerOptions)
        for field in attrs.fields(options)
    } - {(ConsumerOptions, "read")}
    assert {
        (key.options, key.field or name) for name, key in KEYS.items() if key.options is not Profile
    } == expected
