"""What programs read from MetaQ's dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from metaserver import __version__
from tests.http.http_client import ADMIN, USERS, HttpClient
from tests.support import BrokerProcess, put, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(
        tmp_path_factory.mktemp("dashboard"),
        topics="[topic=test]\nnumPartitions=2\ngroup.few=size > 10\n[topic=empty]\n",
        settings={"httpUsersFile": "conf/users.toml"},
    )
    users = process.base / "conf" / "users.toml"
    users.parent.mkdir(parents=True)
    users.write_text(USERS.replace('"none"', '"write"'), encoding="utf-8")
    with serving(process):
        process.ask(put("test", b"hello", 1))
        process.ask(put("test", b"again", 1))
        process.wait_registered()
        yield process


def page(client: HttpClient, path: str, **query: str) -> dict[str, Any]:
    answer = client.request("GET", path, None, JSON, **query)
    assert answer.status == 200, answer
    content: dict[str, Any] = answer.json()
    return content


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "/console/"),
        ("/dashboard", "/console/"),
        ("/logging", "/console/log"),
        ("/cluster", "/console/replicas"),
        ("/topics", "/console/topics"),
        ("/topics/a%b", "/console/topics/a%25b"),
        ("/stats/offsets", "/console/stats?item=offsets"),
    ],
)
def test_people_are_led_to_the_console(client: HttpClient, path: str, place: str) -> None:
    answer = client.get(path)
    assert (answer.status, answer.headers["location"]) == (307, place)


def test_the_members_are_those_of_metaq(broker: BrokerProcess, client: HttpClient) -> None:
    assert page(client, "/") == {"broker_id": 0, "version": __version__}
    found = page(client, "/dashboard")
    assert {name: set(members) for name, members in found.items()} == {
        "instance": {"start", "host", "data", "data_log", "cwd"},
        "version": {"metaq", "id", "uri"},
        "jvm": {"runtime", "processors", "args"},
        "system": {
            "sys_memory",
            "sys_memory_used",
            "swap_space",
            "ss_used",
            "fdc",
            "fdc_used",
            "jvm_memory_max",
            "jvm_memory_total",
            "jvm_memory_used",
        },
    }
    assert found["version"]["uri"] == f"meta://127.0.0.1:{broker.port}"
    assert found["instance"]["data"] == str(broker.data)
    assert any("Start metamorphosis server" in line for line in page(client, "/logging")["logs"])
    assert page(client, "/java-properties")["props"]["pid"] == str(broker.pid)
    assert any("MainThread" in text for text in page(client, "/thread-dump")["threads"])
    config = page(client, "/config")
    assert config["config"] == broker.server_file.read_text(encoding="utf-8")
    assert config["lastLoaded"].endswith(" ago")
    assert page(client, "/stats/offsets")["result"] == broker.ask(b"stats offsets 1\r\n").text
    assert page(client, "/stats")["result"].startswith("STATS\r\npid ")


def test_the_cluster(broker: BrokerProcess, client: HttpClient) -> None:
    found = page(client, "/cluster")
    assert found["current"] == f"meta://127.0.0.1:{broker.port}"
    ((node,),) = (found["nodes"],)
    assert node["brokers"] == [
        {
            "dashboard-uri": f"http://127.0.0.1:{client.port}",
            "slave": False,
            "broker-uri": f"meta://127.0.0.1:{broker.port}",
        }
    ]


def test_topics_and_what_a_group_has_before_it(client: HttpClient) -> None:
    (topic,) = page(client, "/topics")["topics"]
    assert (topic["topic"], topic["partitions"], topic["messageCount"], topic["messageBytes"]) == (
        "test",
        1,
        2,
        50,
    )
    assert (topic["avgMsgSize"], topic["puts"][:16], topic["putFailed"]) == (25, "Count=2,Value=2,", "NO")
    assert topic["topicConfig"]["numPartitions"] == 2
    path = "/api/v1/groups/readers/topics/test/messages"
    positions = client.get(path, max_messages=1).json()["positions"]
    client.post("/api/v1/groups/readers/positions", {"positions": positions})
    found = page(client, "/topics/test", group="readers")
    assert (found["group"], found["group-filter"]) == ("readers", "null")
    assert found["pending-stats"][0] == {
        "partition": "0-0",
        "owner": None,
        "pending-bytes": 25,
        "pending-messages": 1,
        "consumed-bytes": 25,
        "consumed-messages": "N/A",
    }
    assert "error" in page(client, "/topics/test", group="nobody")["pending-stats"][0]
    assert page(client, "/topics/test", group="few")["group-filter"] == "size > 10"
    assert client.request("GET", "/topics/unknown", None, JSON).status == 404


def test_skip_and_reload_need_a_token(client: HttpClient) -> None:
    admin = HttpClient(client.port, ADMIN)
    path = "/topics/test/groups/skippers/partitions/0/skip"
    positions = client.get("/api/v1/groups/skippers/topics/test/messages", max_messages=1).json()["positions"]
    client.post("/api/v1/groups/skippers/positions", {"positions": positions})
    assert client.request("POST", path).status == 401
    assert client.request("POST", "/reload-config").status == 401
    answer = admin.request("POST", path)
    assert (answer.status, answer.text) == (200, "success")
    assert page(client, "/topics/test", group="skippers")["pending-stats"][0]["pending-bytes"] == 0
    assert admin.request("POST", path.replace("/0/", "/9/")).status == 404
    reloaded = admin.request("POST", "/reload-config")
    assert reloaded.text == "Reload config successfully."


def test_a_page_resets_nothing(client: HttpClient) -> None:
    assert client.request("GET", "/stats/reset", None, JSON).status == 403
