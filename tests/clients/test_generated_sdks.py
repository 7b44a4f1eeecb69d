"""Clients that others generate from the full document: they are made, they compile, they call.

The document says null by a choice (`anyOf`) and not by a list of types. For these generators that is
the same; Dify would refuse the whole document for one list of types in a request.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import dify_client
import pytest
from conftest import HERE, Service

# Of these answers, which are no JSON, the generator for Python makes nothing.
NO_JSON = {
    "GET /metrics",
    "GET /openapi.yaml",
    "GET /dify/{file}",
    "POST /api/ask",
    "GET /api/calls/live",
    "POST /api/upstream/test",
    "GET /api/kept/{owner}",
    "GET /api/backup",
}

TYPESCRIPT = """
import type { components, paths } from "./gateway";

type Schemas = components["schemas"];
type Post = paths["/v1/chat/completions"]["post"];
type Asked = Post["requestBody"]["content"]["application/json"];
type Answered = Post["responses"][200]["content"]["application/json"];

const call = { id: "1", type: "function", function: { name: "weather", arguments: "{}" } };
export const messages: Schemas["CompletionMessage"][] = [
  { role: "user", content: "Hello" },
  { role: "user", content: [{ type: "image_url", image_url: { url: "data:," } }] },
  { role: "assistant", content: null, tool_calls: [call] },
  { role: "tool", tool_call_id: "1", content: "sunny" },
];
export const asked: Asked = { messages, temperature: 0.5, tool_choice: "auto", stream: true };
export const said = (answer: Answered) => answer.choices[0]?.message.content;
export const turn = (turn: Schemas["TurnMessage"]): boolean => turn.partial;
// @ts-expect-error A message says whose it is.
export const nobody: Schemas["CompletionMessage"] = { content: "Hello" };
"""


@pytest.fixture(scope="module")
def document(demo: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    printed = demo.run("openapi", "--document", "full", "--server", demo.url)
    assert printed.returncode == 0, printed.stderr
    path = tmp_path_factory.mktemp("document") / "full.json"
    path.write_text(printed.stdout, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def python(document: Path, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package that openapi-python-client makes."""
    folder = tmp_path_factory.mktemp("python")
    config = folder / "config.yaml"
    config.write_text("post_hooks: []\n", encoding="utf-8")
    program = Path(sys.executable).with_name("openapi-python-client")
    made = subprocess.run(
        [program, "generate", "--meta=none", f"--path={document}", f"--config={config}"]
        + [f"--output-path={folder / 'gateway_sdk'}"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = made.stdout + made.stderr
    assert made.returncode == 0, told
    assert set(re.findall(r"WARNING parsing (\w+ \S+) within", told)) <= NO_JSON, told
    assert not re.search(r"ERROR|[Uu]nable to", told), told
    sys.path.insert(0, str(folder))
    return importlib.import_module("gateway_sdk")


def test_a_generated_client_of_python_calls_the_service(python: ModuleType, demo: Service):
    sdk = python.__name__
    models = importlib.import_module(f"{sdk}.models")

    def operation(name: str) -> ModuleType:
        return importlib.import_module(f"{sdk}.api.{name}")

    client = python.AuthenticatedClient(base_url=demo.url, token=demo.key, timeout=30)
    answer = operation("tools.chat").sync(client=client, body=models.ChatRequest(message="Hi"))
    assert answer.success and answer.answer and answer.error is None
    answer = operation("tools.list_models").sync(client=client)
    assert answer.success and answer.models
    model = answer.models[0].id
    listed = operation("openai.openai_list_models").sync(client=client)
    assert model in [one.id for one in listed.data]

    asked = models.CompletionBody(
        model=model,
        messages=[
            models.CompletionMessage(role="user", content="Hi"),
            models.CompletionMessage(role="assistant", content="Hello"),
            models.CompletionMessage(
                role="user", content=[models.ContentPart(type_="text", text="And now?")]
            ),
        ],
        temperature=0.5,
        max_tokens=100,
    )
    completion = operation("openai.chat_completions").sync(client=client, body=asked)
    assert isinstance(completion, models.Completion)
    assert completion.choices[0].message.content
    refused = operation("openai.chat_completions").sync(
        client=python.AuthenticatedClient(base_url=demo.url, token="wrong"), body=asked
    )
    assert refused.error.code == "gateway_key_wrong"


def test_a_message_of_openai_and_one_of_a_conversation_are_two_things(python: ModuleType):
    models = importlib.import_module(f"{python.__name__}.models")
    message = models.CompletionMessage.from_dict({"role": "assistant", "content": None})
    assert message.to_dict() == {"role": "assistant", "content": None}
    with pytest.raises(KeyError):
        models.TurnMessage.from_dict({"role": "user", "content": "Hi"})


def test_generated_types_of_typescript_compile(document: Path, tmp_path: Path):
    programs = HERE / "node_modules/.bin"
    types, use = tmp_path / "gateway.ts", tmp_path / "use.ts"
    use.write_text(TYPESCRIPT, encoding="utf-8")
    for command in (
        [programs / "openapi-typescript", document, "--output", types],
        [programs / "tsc", "--noEmit", "--strict", "--noUncheckedIndexedAccess", use],
    ):
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert made.returncode == 0, made.stdout + made.stderr


def test_whoever_imports_the_full_document_in_dify_gets_the_same_tools(demo: Service):
    full = dify_client.import_url(f"{demo.url}/openapi/full.json").tools
    for name, tool in demo.tools().items():
        offered = {parameter.name: parameter for parameter in full[name].parameters}
        for parameter in tool.parameters:
            assert offered[parameter.name].type == parameter.type
            assert offered[parameter.name].description == parameter.description
