"""The documents, rule by rule: what Dify and other importers can and cannot read.

Each rule is a test of its own, named after what goes wrong for a user when it is broken.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dify_client
import httpx
import openapi_spec_validator
import pytest
import yaml
from conftest import HERE, ROOT, Service, new_key

OPERATIONS = {
    "chat": ("post", "/api/chat"),
    "list_models": ("get", "/api/models"),
    "health": ("get", "/api/health"),
}
EXAMPLE_SERVER = "https://your-app.example.com"
DOCUMENT_PATHS = [
    "/openapi.json",
    "/openapi.yaml",
    "/openapi/full.json",
    "/.well-known/ai-plugin.json",
]
BROWSER = {"User-Agent": dify_client.USER_AGENT, "Accept": "*/*"}

# Keywords that JSON Schema has and OpenAPI 3.0 does not, or that importers trip over.
FORBIDDEN_KEYWORDS = {
    "$ref": "Dify drops the description",
    "allOf": "Dify sees no parameters",
    "anyOf": "Dify imports the parameter as a string whatever it is",
    "oneOf": "Dify sends null",
    "const": "not in OpenAPI 3.0",
    "contentEncoding": "not in OpenAPI 3.0",
    "contentMediaType": "not in OpenAPI 3.0",
    "examples": "not in schemas of OpenAPI 3.0",
    "patternProperties": "not in OpenAPI 3.0",
    "prefixItems": "not in OpenAPI 3.0",
    "propertyNames": "not in OpenAPI 3.0",
    "unevaluatedProperties": "not in OpenAPI 3.0",
}


def get(service: Service, path: str, **headers: str) -> httpx.Response:
    """Fetches as an importer does: like a browser, without a key, following nothing."""
    return httpx.get(
        f"{service.url}{path}", headers={**BROWSER, **headers}, timeout=10, follow_redirects=False
    )


def nodes(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every node of a document with its place in it."""
    yield where, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, f"{where}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nodes(item, f"{where}/{index}")


def schemas(value: Any, where: str = "") -> Iterator[tuple[str, dict]]:
    """Every schema of the tools' document, which has them only in parameters and bodies."""
    for place, node in nodes(value, where):
        if place.endswith("/schema") and isinstance(node, dict):
            yield from _subschemas(place, node)


def _subschemas(where: str, schema: dict) -> Iterator[tuple[str, dict]]:
    yield where, schema
    for name, prop in schema.get("properties", {}).items():
        yield from _subschemas(f"{where}/properties/{name}", prop)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from _subschemas(f"{where}/{keyword}", schema[keyword])


@pytest.fixture(scope="module")
def tools(demo: Service) -> dict:
    return get(demo, "/openapi.json").json()


@pytest.fixture(scope="module")
def full(demo: Service) -> dict:
    return get(demo, "/openapi/full.json").json()


@pytest.fixture(scope="module")
def operations(tools: dict) -> dict[str, dict]:
    return {
        operation["operationId"]: operation
        for item in tools["paths"].values()
        for operation in item.values()
    }


@pytest.fixture(scope="module")
def chat_properties(operations: dict[str, dict]) -> dict[str, dict]:
    return operations["chat"]["requestBody"]["content"]["application/json"]["schema"]["properties"]


# --- fetching ---


@pytest.mark.parametrize("path", DOCUMENT_PATHS)
def test_a_document_is_there_at_once_without_a_key(demo: Service, path: str):
    response = get(demo, path)
    assert response.status_code == 200
    expected = "yaml" if path.endswith(".yaml") else "application/json"
    assert expected in response.headers["content-type"]
    # Squid kept one for days when it could.
    assert response.headers["cache-control"] == "no-store"
    assert "last-modified" not in response.headers


@pytest.mark.parametrize("path", DOCUMENT_PATHS)
def test_a_document_can_be_read_by_pages_of_other_origins(demo: Service, path: str):
    response = get(demo, path, Origin="https://chat.example.com")
    assert response.headers["access-control-allow-origin"] in ("*", "https://chat.example.com")
    assert "access-control-allow-credentials" not in response.headers


def test_a_browser_may_ask_before_calling_a_tool(demo: Service):
    response = httpx.options(
        f"{demo.url}/api/chat",
        headers={
            "Origin": "https://chat.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
        },
    )
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] in ("*", "https://chat.example.com")
    allowed = response.headers["access-control-allow-headers"].lower()
    assert allowed == "*" or {"authorization", "content-type"} <= set(re.split(r",\s*", allowed))
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in response.headers


def test_only_the_configured_origins_may_read_when_some_are(service: Callable[..., Service]):
    gateway = service(CORS_ALLOWED_ORIGINS="https://good.example.com")
    good = get(gateway, "/openapi.json", Origin="https://good.example.com")
    assert good.headers["access-control-allow-origin"] == "https://good.example.com"
    bad = get(gateway, "/openapi.json", Origin="https://bad.example.com")
    assert "access-control-allow-origin" not in bad.headers


# --- as a whole ---


def test_the_tools_document_is_valid_openapi_3_0_3(tools: dict):
    assert tools["openapi"] == "3.0.3"
    openapi_spec_validator.validate(tools, cls=openapi_spec_validator.OpenAPIV30SpecValidator)


def test_the_full_document_is_valid_openapi_3_1(full: dict):
    assert full["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(full, cls=openapi_spec_validator.OpenAPIV31SpecValidator)


def test_yaml_says_the_same_as_json(demo: Service, tools: dict):
    assert yaml.safe_load(get(demo, "/openapi.yaml").text) == tools


def test_info_says_what_the_provider_is_for(tools: dict):
    assert tools["info"]["title"].strip()
    assert tools["info"]["version"].strip()
    assert tools["info"]["description"].strip()


def test_nothing_is_referred_to_so_that_no_importer_has_to_resolve(tools: dict):
    found = [where for where, node in nodes(tools) if isinstance(node, dict) and "$ref" in node]
    assert found == []
    assert "schemas" not in tools.get("components", {})


def test_no_schema_uses_a_keyword_that_importers_trip_over(tools: dict):
    found = [
        f"{where}: {keyword}: {reason}"
        for where, schema in schemas(tools)
        for keyword, reason in FORBIDDEN_KEYWORDS.items()
        if keyword in schema
    ]
    assert found == []


def test_every_schema_has_one_type_never_a_list(tools: dict):
    # `type: ["string", "null"]` fails the whole import, no type at all sends null.
    found = [where for where, schema in schemas(tools) if not isinstance(schema.get("type"), str)]
    assert found == []


# --- servers ---


def test_the_only_server_is_absolute_and_without_a_trailing_slash(demo: Service, tools: dict):
    assert len(tools["servers"]) == 1
    url = tools["servers"][0]["url"]
    parts = urlsplit(url)
    assert parts.scheme in ("http", "https") and parts.netloc
    assert not url.endswith("/")
    assert "{" not in url and "variables" not in tools["servers"][0]
    assert url == demo.url


def test_no_path_or_operation_has_servers_of_its_own(tools: dict):
    for item in tools["paths"].values():
        assert "servers" not in item
        assert all("servers" not in operation for operation in item.values())


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_configured_public_url_wins_over_every_header(
    service: Callable[..., Service], slash: str
):
    gateway = service(PUBLIC_URL=f"https://mirror.example.com/base{slash}")
    forged = {
        "Host": "evil.example.com",
        "X-Forwarded-Host": "evil.example.com",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example.com;proto=https",
    }
    for path in ("/openapi.json", "/openapi/full.json"):
        document = get(gateway, path, **forged).json()
        assert [server["url"] for server in document["servers"]] == [
            "https://mirror.example.com/base"
        ]
    for path in ("/openapi.yaml", "/.well-known/ai-plugin.json", "/"):
        text = html.unescape(get(gateway, path, **forged).text)
        assert "evil.example.com" not in text
        assert "https://mirror.example.com/base" in text


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        (
            {"RENDER": "true", "RENDER_EXTERNAL_URL": "https://a.onrender.com"},
            "https://a.onrender.com",
        ),
        (
            {"RAILWAY_ENVIRONMENT": "production", "RAILWAY_PUBLIC_DOMAIN": "a.up.railway.app"},
            "https://a.up.railway.app",
        ),
    ],
)
def test_a_platforms_own_url_is_used_when_none_is_configured(
    service: Callable[..., Service], variables: dict[str, str], url: str
):
    gateway = service(**variables)
    document = get(gateway, "/openapi.json", **{"X-Forwarded-Host": "evil.example.com"}).json()
    assert [server["url"] for server in document["servers"]] == [url]


def test_a_tunnel_or_proxy_on_this_machine_is_believed(demo: Service):
    # The peer is loopback, so it is a proxy that the user runs.
    forwarded = {"X-Forwarded-Host": "mine.example.com", "X-Forwarded-Proto": "https"}
    document = get(demo, "/openapi.json", **forwarded).json()
    assert document["servers"][0]["url"] == "https://mine.example.com"


@pytest.mark.parametrize("host", ['evil.example.com/"onload=', "a b", "evil.example.com\u00e9", ""])
def test_a_malformed_host_never_reaches_the_document(demo: Service, host: str):
    response = get(demo, "/openapi.json", **{"X-Forwarded-Host": host.encode("latin-1")})
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert urlsplit(response.json()["servers"][0]["url"]).netloc == f"127.0.0.1:{demo.port}"


# --- operations ---


def test_the_tools_are_the_three_operations_and_no_others(tools: dict):
    found = {
        operation["operationId"]: (method, path)
        for path, item in tools["paths"].items()
        for method, operation in item.items()
    }
    assert found == OPERATIONS


def test_every_operation_id_is_a_tool_name_that_dify_accepts(operations: dict[str, dict]):
    for name in operations:
        assert dify_client.TOOL_NAME.match(name)


@pytest.mark.parametrize("field", ["summary", "description"])
def test_every_operation_tells_the_model_what_it_does_in_under_300_characters(
    operations: dict[str, dict], field: str
):
    for name, operation in operations.items():
        text = operation[field].strip()
        assert 0 < len(text) < 300, f"{name}: {len(text)} characters"


def test_no_operation_asks_a_gpt_for_confirmation(operations: dict[str, dict]):
    for operation in operations.values():
        assert operation["x-openai-isConsequential"] is False


def test_parameters_are_never_declared_for_a_whole_path(tools: dict):
    # Dify does not see those.
    for item in tools["paths"].values():
        assert set(item) <= {"get", "post"}


def test_no_parameter_is_a_header_or_a_cookie(operations: dict[str, dict]):
    # Dify sends optional ones always, empty.
    for operation in operations.values():
        for parameter in operation.get("parameters", []):
            assert parameter["in"] in ("path", "query")


def test_operations_that_read_take_no_body(operations: dict[str, dict]):
    for name in ("list_models", "health"):
        assert "requestBody" not in operations[name]


# --- the request of chat ---


def test_chat_has_one_body_of_exactly_application_json(operations: dict[str, dict]):
    body = operations["chat"]["requestBody"]
    assert body["required"] is True
    # With a charset it would be sent as a form, with two types every parameter twice.
    assert list(body["content"]) == ["application/json"]


def test_chats_body_is_an_object_with_the_contracts_parameters(
    operations: dict[str, dict], chat_properties: dict[str, dict]
):
    schema = operations["chat"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["type"] == "object"
    assert schema["required"] == ["message"]
    assert set(chat_properties) == {
        "message",
        "model",
        "system",
        "conversation_id",
        "temperature",
        "max_tokens",
    }
    assert next(iter(chat_properties)) == "message"


def test_every_parameter_is_a_plain_string(chat_properties: dict[str, dict]):
    for name, prop in chat_properties.items():
        assert prop["type"] == "string", name
        # `nullable` would be truthful, but turns up as a type list in 3.1 converters.
        assert "nullable" not in prop, name
        assert "enum" not in prop, name


def test_every_parameter_is_described_for_the_model(chat_properties: dict[str, dict]):
    for name, prop in chat_properties.items():
        assert 0 < len(prop["description"].strip()) < 300, name


def test_what_the_model_cannot_see_is_said_in_the_description(chat_properties: dict[str, dict]):
    # A model sees type and description only.
    for name in ("temperature", "max_tokens"):
        assert re.search(r"\d", chat_properties[name]["description"]), f"{name}: no range"
    for name, prop in chat_properties.items():
        if prop.get("default"):
            assert prop["default"] in prop["description"], f"{name}: its default is not described"


def test_every_parameter_has_an_example_of_its_type(chat_properties: dict[str, dict]):
    for name, prop in chat_properties.items():
        assert isinstance(prop.get("example"), str), name


def test_every_default_is_a_string(chat_properties: dict[str, dict]):
    for name, prop in chat_properties.items():
        assert isinstance(prop.get("default", ""), str), name


# --- the responses ---


def test_every_operation_answers_200_and_default_only(operations: dict[str, dict]):
    # Coze takes no other statuses, FastGPT reads the outputs from `default`.
    for name, operation in operations.items():
        assert set(operation["responses"]) == {"200", "default"}, name


def test_every_response_is_described_and_of_one_json_object(operations: dict[str, dict]):
    for operation in operations.values():
        for response in operation["responses"].values():
            assert response["description"].strip()
            assert list(response["content"]) == ["application/json"]
            assert response["content"]["application/json"]["schema"]["type"] == "object"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "chat",
            {
                "success": "boolean",
                "answer": "string",
                "conversation_id": "string",
                "response_id": "string",
                "model": "string",
                "finish_reason": "string",
                "usage": "object",
                "error": "object",
            },
        ),
        (
            "list_models",
            {
                "success": "boolean",
                "models": "array",
                "default_model": "string",
                "error": "object",
            },
        ),
        (
            "health",
            {
                "success": "boolean",
                "status": "string",
                "upstream": None,
                "latency_ms": None,
                "session": None,
                "error": "object",
            },
        ),
    ],
)
@pytest.mark.parametrize("status", ["200", "default"])
def test_the_envelope_is_flat_at_the_top_of_every_response(
    operations: dict[str, dict], name: str, fields: dict, status: str
):
    response = operations[name]["responses"][status]
    properties = response["content"]["application/json"]["schema"]["properties"]
    if status == "default":
        # A failure tells what is known, and always its error.
        fields = {field: fields[field] for field in ("success", "error")}
    for field, kind in fields.items():
        assert field in properties, f"{name} {status}: {field} is missing"
        assert kind is None or properties[field]["type"] == kind, f"{name} {status}: {field}"
    error = properties["error"]["properties"]
    assert error.keys() >= {"code", "message", "hint", "retryable", "request_id"}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_examples_tell_a_success_from_a_failure(operations: dict[str, dict], name: str):
    # Made up from the examples of single fields, both would show an answer with an error beside it.
    responses = operations[name]["responses"]
    good, bad = (
        responses[status]["content"]["application/json"].get("example")
        for status in ("200", "default")
    )
    assert good, "no example for 200"
    assert good["success"] is True
    assert good["error"] is None
    assert bad, "no example for default"
    assert bad["success"] is False
    assert bad["error"]["code"]


# --- security ---


def test_the_key_is_declared_as_a_bearer_token(tools: dict, operations: dict[str, dict]):
    declared = tools["components"]["securitySchemes"]
    bearer = [
        name
        for name, scheme in declared.items()
        if scheme["type"] == "http" and scheme["scheme"].lower() == "bearer"
    ]
    assert len(bearer) == 1
    for operation in operations.values():
        required = operation.get("security", tools.get("security"))
        assert {bearer[0]: []} in required
        assert {} not in required, "a key is needed"


# --- the other documents ---


def test_the_full_document_has_the_tools_under_the_same_names(full: dict):
    for name, (method, path) in OPERATIONS.items():
        assert full["paths"][path][method]["operationId"] == name


def test_the_full_document_names_every_operation_once(full: dict):
    names = [op["operationId"] for item in full["paths"].values() for op in item.values()]
    assert len(names) == len(set(names))


def test_every_path_of_the_full_document_exists(demo: Service, full: dict):
    with demo.client() as client:
        client.headers["Authorization"] = f"Bearer {demo.env['ADMIN_KEY']}"
        for path, item in full["paths"].items():
            if "get" in item and "{" not in path:
                # One of them is a stream that goes on for minutes, so none is read to its end.
                with client.stream("GET", path) as answer:
                    assert answer.status_code == 200, path


def test_the_full_document_has_the_public_paths_too(full: dict):
    for path in ("/health", "/ready", "/openapi.json", "/openapi.yaml"):
        assert path in full["paths"], path


def test_the_plugin_manifest_points_at_the_document(demo: Service):
    manifest = get(demo, "/.well-known/ai-plugin.json").json()
    assert manifest["schema_version"] == "v1"
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]{0,49}", manifest["name_for_model"])
    for field in ("name_for_human", "description_for_human", "description_for_model"):
        assert manifest[field].strip(), field
    assert len(manifest["name_for_human"]) <= 20
    assert manifest["api"]["type"] == "openapi"
    assert manifest["api"]["url"] == f"{demo.url}/openapi.json"
    assert manifest["auth"]["type"] in ("user_http", "service_http")
    assert manifest["auth"]["authorization_type"] == "bearer"
    assert get(demo, urlsplit(manifest["api"]["url"]).path).status_code == 200
    for field in ("logo_url", "legal_info_url"):
        if manifest.get(field, "").startswith(demo.url):
            assert get(demo, urlsplit(manifest[field]).path).status_code == 200


def test_the_documents_do_not_depend_on_the_key(service: Callable[..., Service]):
    first = service(PUBLIC_URL=EXAMPLE_SERVER)
    # The file of the store is for one service at a time.
    own = {"DATABASE_URL": "memory:", "PUBLIC_URL": EXAMPLE_SERVER}
    second = service(key=None, GATEWAY_API_KEYS=new_key(), **own)
    for path in ("/openapi.json", "/openapi/full.json"):
        assert get(first, path).text == get(second, path).text
        assert first.key not in get(first, path).text


# --- what the program prints, and what the repository holds ---


def printed(binary: Path, *arguments: str) -> str:
    result = subprocess.run(
        [binary, "openapi", *arguments],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("file", "document", "form"),
    [
        ("tools.json", "tools", "json"),
        ("tools.yaml", "tools", "yaml"),
        ("full.json", "full", "json"),
    ],
)
def test_the_repository_holds_what_the_program_prints(
    binary: Path, file: str, document: str, form: str
):
    arguments = ("--document", document, "--format", form, "--server", EXAMPLE_SERVER)
    text = printed(binary, *arguments)
    assert (ROOT / "openapi" / file).read_text(encoding="utf-8") == text


def test_the_program_prints_the_tools_as_json_unless_told(binary: Path):
    assert json.loads(printed(binary, "--server", EXAMPLE_SERVER)) == json.loads(
        (ROOT / "openapi/tools.json").read_text(encoding="utf-8")
    )


def test_full_is_printed_as_yaml_too(binary: Path):
    text = printed(binary, "--document", "full", "--format", "yaml", "--server", EXAMPLE_SERVER)
    assert yaml.safe_load(text) == json.loads(
        (ROOT / "openapi/full.json").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize(
    ("path", "document"), [("/openapi.json", "tools"), ("/openapi/full.json", "full")]
)
def test_the_service_publishes_what_the_program_prints(
    demo: Service, binary: Path, path: str, document: str
):
    text = printed(binary, "--document", document, "--server", demo.url)
    assert get(demo, path).json() == json.loads(text)


def test_a_server_that_cannot_be_imported_is_refused(binary: Path):
    for server in ("relative/path", "ftp://files.example.com", ""):
        result = subprocess.run(
            [binary, "openapi", "--server", server],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert result.returncode == 2, f"`{server}` was taken"
        assert "server" in result.stderr


def test_a_trailing_slash_of_the_server_is_dropped(binary: Path):
    document = json.loads(printed(binary, "--server", f"{EXAMPLE_SERVER}/"))
    assert document["servers"][0]["url"] == EXAMPLE_SERVER


@pytest.mark.parametrize("file", ["tools.json", "tools.yaml", "full.json"])
def test_the_linter_has_nothing_to_say(file: str):
    result = subprocess.run(
        [
            HERE / "node_modules/.bin/redocly",
            "lint",
            "--config",
            HERE / "redocly.yaml",
            "--format",
            "json",
            ROOT / "openapi" / file,
        ],
        env={
            **os.environ,
            "REDOCLY_TELEMETRY": "off",
            "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    report = json.loads(result.stdout)
    problems = [
        f"{problem['severity']} {problem['ruleId']}: {problem['message']} "
        f"({problem['location'][0].get('pointer')})"
        for problem in report["problems"]
    ]
    assert problems == []
    assert result.returncode == 0, result.stderr
