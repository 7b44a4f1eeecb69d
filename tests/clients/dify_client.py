"""A client that behaves as Dify's custom tools do.

It imports a document by URL and calls the tools found in it, with the same timeouts, the same
reading of the schema and the same assembly of the request as Dify 1.16, including its blind spots:
what Dify would drop, refuse or lose is dropped, refused or lost here too. It is written from the
behaviour, so that a change in the document which would break a user's Dify breaks a test.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import yaml

IMPORT_TIMEOUT = httpx.Timeout(10.0)
CALL_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
METHODS = ("get", "post", "put", "delete", "patch", "head", "options", "trace")
MAX_OPERATIONS = 100
TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0.0.0 Safari/537.36 Edg/120.0.0.0"
)

# Before 1.16.0 an answer with one of these is tried again and then thrown away with its body.
LOST_STATUSES = frozenset({429, 500, 502, 503, 504})


class DifyImportError(Exception):
    """What the user sees as "invalid schema, please check the url you provided"."""


class DifyToolError(Exception):
    """What a failed call shows to the user and to the model."""


# --- importing ---


@dataclass
class Parameter:
    """One parameter as Dify understood it: all that the model will see of it."""

    name: str
    type: str
    required: bool
    description: str
    default: Any = None


@dataclass
class Tool:
    name: str
    description: str
    url: str
    method: str
    parameters: list[Parameter]
    operation: dict[str, Any]

    def parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)


@dataclass
class Provider:
    description: str
    tools: dict[str, Tool] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def fetch_document(url: str) -> str:
    """Fetches a document as the import dialog does."""
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*"}
    try:
        response = httpx.get(url, headers=headers, timeout=IMPORT_TIMEOUT, follow_redirects=False)
    except httpx.HTTPError as error:
        raise DifyImportError(
            f"invalid schema, please check the url you provided: {error}"
        ) from error
    if response.status_code != 200:
        raise DifyImportError(f"invalid schema, the URL answered {response.status_code}")
    return response.text


def import_url(url: str) -> Provider:
    return parse(fetch_document(url))


def parse(text: str) -> Provider:
    """Reads a document, JSON or YAML, into tools."""
    try:
        document = json.loads(text)
    except ValueError:
        document = yaml.safe_load(text)
    if not isinstance(document, dict):
        raise DifyImportError("the document is not an object")
    for key in ("info", "servers", "paths"):
        if not document.get(key):
            raise DifyImportError(f"`{key}` is required")
    server = document["servers"][0]["url"]
    provider = Provider(description=document["info"].get("description", ""))
    operations = [
        (path, method, item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]
    if len(operations) > MAX_OPERATIONS:
        raise DifyImportError("too many operations")
    for path, method, operation in operations:
        tool = _tool(document, server, path, method, operation, provider.warnings)
        provider.tools[tool.name] = tool
    return provider


def _tool(
    document: dict[str, Any],
    server: str,
    path: str,
    method: str,
    operation: dict[str, Any],
    warnings: list[str],
) -> Tool:
    parameters = [_declared_parameter(item) for item in operation.get("parameters", [])]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if "schema" not in content:
            continue
        if "$ref" in content["schema"]:
            content["schema"] = _resolve(document, content["schema"]["$ref"])
        parameters += _body_parameters(content["schema"])
        if media_type != "application/json":
            warnings.append(f"{path}: a body of {media_type} is sent as a form")
    names = [parameter.name for parameter in parameters]
    warnings += [
        f"{path}: parameter {name} is doubled" for name in set(names) if names.count(name) > 1
    ]
    name = operation.get("operationId") or re.sub(r"[^a-zA-Z0-9_-]", "", path) + f"_{method}"
    if not TOOL_NAME.match(name):
        raise DifyImportError(f"`{name}` is not a tool name")
    description = (
        operation["description"] if "description" in operation else operation.get("summary")
    )
    # Concatenated as they are: neither a relative server nor a trailing slash is mended.
    return Tool(name, description or "", server + path, method, parameters, operation)


def _declared_parameter(item: dict[str, Any]) -> Parameter:
    schema = item.get("schema", {})
    return Parameter(
        name=item["name"],
        type=_form_type(item) or _form_type(schema) or "string",
        required=item.get("required", False),
        description=item.get("description") or "",
        default=schema.get("default"),
    )


def _body_parameters(schema: dict[str, Any]) -> list[Parameter]:
    # Only `properties` of the schema itself is read: allOf, oneOf and arrays give no parameters.
    required = schema.get("required", [])
    return [
        Parameter(
            name=name,
            type=_form_type(prop) or "string",
            required=name in required,
            description=prop.get("description", ""),
            default=prop.get("default"),
        )
        for name, prop in schema.get("properties", {}).items()
    ]


def _form_type(schema: dict[str, Any]) -> str | None:
    try:
        return {
            "integer": "number",
            "number": "number",
            "boolean": "boolean",
            "string": "string",
            "array": "array",
            "object": "object",
        }.get(schema.get("type"))
    except TypeError as error:
        # `type: ["string", "null"]`
        raise DifyImportError(str(error)) from error


def _resolve(document: dict[str, Any], reference: str) -> dict[str, Any]:
    target: Any = document
    for part in reference.split("/")[1:]:
        target = target[part]
    return target


# --- calling ---


@dataclass
class Auth:
    """The authorization dialog of a custom tool."""

    kind: str = "none"  # none, header or query
    prefix: str = "basic"  # basic, bearer or custom; the dialog starts with Basic
    header: str = "Authorization"
    key: str = ""
    query: str = "key"

    def headers(self) -> dict[str, str]:
        if self.kind != "header":
            return {}
        # "Basic" sends the key as it is, not as base64 of user and password.
        start = {"basic": "Basic ", "bearer": "Bearer ", "custom": ""}[self.prefix]
        return {self.header: start + self.key}

    def params(self) -> dict[str, str]:
        return {self.query: self.key} if self.kind == "query" else {}


def key_forms(key: str) -> dict[str, Auth]:
    """Every way in which a user of Dify may come to present a key."""
    user_and_key = base64.b64encode(f"dify:{key}".encode()).decode()
    return {
        "header, Basic, raw key": Auth("header", "basic", key=key),
        "header, Bearer": Auth("header", "bearer", key=key),
        "header, Bearer, pasted with the word": Auth("header", "bearer", key=f"Bearer {key}"),
        # A space after it would be refused by Dify's own client.
        "header, Bearer, pasted with a space": Auth("header", "bearer", key=f" {key}"),
        "header, Basic, base64 of user and key": Auth("header", "basic", key=user_and_key),
        "custom header X-API-Key": Auth("header", "custom", header="X-API-Key", key=key),
        "custom header Authorization, raw key": Auth("header", "custom", key=key),
        "custom header Authorization, Bearer typed": Auth("header", "custom", key=f"Bearer {key}"),
        "query parameter": Auth("query", key=key),
        "query parameter, pasted with a line end": Auth("query", key=f"{key}\n"),
    }


@dataclass
class Result:
    """What a call leaves behind: for a workflow `text` and `json`, for an agent what it reads."""

    text: str
    json: dict[str, Any] | None
    response: httpx.Response

    @property
    def agent_sees_it_once(self) -> bool:
        """The agent gets the text and the JSON, and drops one only if they are the same bytes."""
        return self.response.content == json.dumps(self.json, ensure_ascii=False).encode()


class Caller:
    """Calls imported tools with one authorization; keeps connections as Dify's client does."""

    def __init__(self, auth: Auth, *, timeout: httpx.Timeout = CALL_TIMEOUT, lossy: bool = True):
        self.auth = auth
        self.lossy = lossy
        self.client = httpx.Client(timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.client.close()

    def invoke(self, tool: Tool, **arguments: Any) -> Result:
        response = self.send(tool, arguments)
        if self.lossy and response.status_code in LOST_STATUSES:
            raise DifyToolError(f"Reached maximum retries (0) for URL {tool.url}")
        if response.is_redirect:
            raise DifyToolError("redirected: the key would be lost on some versions of Dify")
        if response.status_code >= 400:
            raise DifyToolError(
                f"Request failed with status code {response.status_code} and {response.text}"
            )
        if not response.content:
            return Result(
                "Empty response from the tool, please check your parameters", None, response
            )
        body = None
        if "application/json" in response.headers.get("content-type", ""):
            try:
                body = response.json()
            except ValueError:
                body = None
        return Result(response.text, body if isinstance(body, dict) else None, response)

    def send(self, tool: Tool, arguments: dict[str, Any]) -> httpx.Response:
        for parameter in tool.parameters:
            if parameter.required and parameter.name not in arguments:
                if parameter.default is None:
                    raise DifyToolError(f"Missing required parameter {parameter.name}")
                arguments[parameter.name] = parameter.default
        headers = self.auth.headers()
        params = self.auth.params()
        url = tool.url
        for item in tool.operation.get("parameters", []):
            value = arguments.get(item["name"], item.get("schema", {}).get("default"))
            match item["in"]:
                case "path":
                    url = url.replace("{%s}" % item["name"], str(value))
                case "query" if value not in (None, ""):
                    params[item["name"]] = value
                case "header":
                    headers[item["name"]] = "" if value is None else str(value)
        content: dict[str, Any] = {}
        for media_type, media in tool.operation.get("requestBody", {}).get("content", {}).items():
            # The last media type wins the header; parameters that are not declared are dropped.
            headers["Content-Type"] = media_type
            for name, prop in media["schema"].get("properties", {}).items():
                if name in arguments:
                    content[name] = _convert(prop, arguments[name])
                elif "default" in prop:
                    content[name] = prop["default"]
        body: dict[str, Any] = {}
        if headers.get("Content-Type") == "application/json":
            body["content"] = json.dumps(content)
        elif content:
            body["data"] = content
        return self.client.request(tool.method.upper(), url, params=params, headers=headers, **body)


def _convert(schema: dict[str, Any], value: Any) -> Any:
    """The type of the document wins over what the model or the workflow gave."""
    try:
        match schema.get("type"):
            case "string":
                return "" if value is None else str(value)
            case "integer":
                return int(value)
            case "number":
                return float(value) if "." in str(value) else int(value)
            case "boolean":
                # Whatever was typed into the Test dialog is a text, and so true.
                return bool(value)
            case "object" | "array":
                return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    # oneOf, or no type at all.
    return None
