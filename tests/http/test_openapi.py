from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from metaserver.http.openapi import openapi_document
from tests.http.test_application import application_with_parts

if TYPE_CHECKING:
    from tests.http.http_client import HttpClient


def operations() -> dict[str, set[str]]:
    """Path to methods, of the routes that there are."""
    found: dict[str, set[str]] = {}
    for route in application_with_parts().routes:
        path = re.sub(r":\w+}", "}", route.path)  # type: ignore[attr-defined]  # all are Routes
        if path.startswith("/api/"):
            methods = route.methods - {"HEAD"}  # type: ignore[attr-defined]
            found.setdefault(path, set()).update(method.lower() for method in methods)
    return found


def test_the_document_has_every_route_and_no_other() -> None:
    assert {path: set(entry) for path, entry in openapi_document()["paths"].items()} == operations()


def test_parameters_in_the_path_are_declared_and_references_lead_somewhere() -> None:
    document = openapi_document()
    for path, entry in document["paths"].items():
        for operation in entry.values():
            declared = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
    for reference in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert reference in document["components"]["schemas"]


def test_it_is_served(client: HttpClient) -> None:
    content: Any = client.get("/api/v1/openapi.json").json()
    assert content == openapi_document()
