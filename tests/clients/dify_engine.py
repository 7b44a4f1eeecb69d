"""Runs apps in Dify's own workflow engine, `graphon`, for test_dify_apps.py.

A program of its own, because the engine wants a newer Python than the other tests, and packages that
do not go with theirs. It reads one job a line from standard input and prints what became of it, as one
line of JSON:

    {"app": "the DSL", "url": "http://...", "key": "...", "inputs": {"query": "..."}}

Dify runs Code nodes in a sandbox that it calls over HTTP, and models in plugins. Here the sandbox is a
Python beside this one, and the model asks the gateway; test_dify_plugin.py tries the plugin's own code.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import yaml
from graphon.dsl import loads, node_factory
from graphon.engine_events.node import NodeRunRetryEvent, NodeRunStreamChunkEvent, NodeRunSucceededEvent
from graphon.model_runtime.entities.common_entities import I18nObject
from graphon.model_runtime.entities.llm_entities import LLMResultChunk, LLMResultChunkDelta, LLMUsage
from graphon.model_runtime.entities.message_entities import AssistantPromptMessage
from graphon.model_runtime.entities.model_entities import AIModelEntity, FetchFrom, ModelType

PLUGIN = "langgenius/openai_api_compatible"


class Sandbox(BaseHTTPRequestHandler):
    """What answers as Dify's sandbox does."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        done = subprocess.run(
            [sys.executable, "-I", "-"],
            check=False,
            input=asked["code"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        body = json.dumps({"code": 0, "data": {"stdout": done.stdout, "error": done.stderr}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Model:
    """A model that the user has added to the plugin and chosen in the node."""

    provider, model_name, stop = "openai_api_compatible", "mirror-small", None

    def __init__(self, *, credentials: dict, **_: object):
        self._credentials = credentials
        self.parameters: dict = {}

    def get_model_schema(self) -> AIModelEntity:
        return AIModelEntity(
            model=self.model_name,
            label=I18nObject(en_US=self.model_name),
            model_type=ModelType.LLM,
            fetch_from=FetchFrom.CUSTOMIZABLE_MODEL,
            model_properties={"context_size": 8192},
        )

    def get_llm_num_tokens(self, prompt_messages: list) -> int:
        return len(prompt_messages)

    def invoke_llm(self, *, prompt_messages: list, **_: object) -> Iterator[LLMResultChunk]:
        messages = [{"role": m.role.value, "content": m.get_text_content()} for m in prompt_messages]
        answer = httpx.post(
            f"{self._credentials['url']}/v1/chat/completions",
            headers={"Authorization": f"Bearer {self._credentials['key']}"},
            json={"model": self.model_name, "messages": messages},
        )
        if answer.status_code != 200:
            raise ValueError(answer.text)
        text = answer.json()["choices"][0]["message"]["content"]
        half = len(text) // 2
        for index, part in enumerate([text[:half], text[half:]]):
            message = AssistantPromptMessage(content=part)
            usage = LLMUsage.empty_usage() if index else None
            delta = LLMResultChunkDelta(index=index, message=message, usage=usage)
            yield LLMResultChunk(model=self.model_name, delta=delta)

    def is_structured_output_parse_error(self, _: Exception) -> bool:
        return False


def prepared(app: str, key: str) -> str:
    """The app after its user has filled in the secret and installed the plugin that it names."""
    dsl = yaml.safe_load(app)
    for variable in dsl["workflow"]["environment_variables"]:
        if variable["value_type"] == "secret":
            variable["value"] = key
    plugin = {"marketplace_plugin_unique_identifier": f"{PLUGIN}:0.0.1@0"}
    dsl["dependencies"].append({"type": "marketplace", "value": plugin})
    return yaml.safe_dump(dsl)


def run(job: dict, sandbox: str) -> dict:
    model = {"values": {"url": job["url"], "key": job["key"]}}
    engine = loads(
        prepared(job["app"], job["key"]),
        credentials={"code": {"execution_endpoint": sandbox}, "model_credentials": [model]},
        start_inputs=job["inputs"],
    )
    told: dict = {"nodes": [], "retries": 0, "pieces": 0, "outputs": {}}
    try:
        for event in engine.run():
            if isinstance(event, NodeRunSucceededEvent):
                told["nodes"].append(event.node_id)
                # The last node is the answer of a chat and the end of a workflow.
                told["outputs"] = {
                    name: value
                    for name, value in event.node_run_result.outputs.items()
                    if isinstance(value, str)
                }
            elif isinstance(event, NodeRunStreamChunkEvent):
                told["pieces"] += bool(event.chunk)
            elif isinstance(event, NodeRunRetryEvent):
                told["retries"] += 1
    except RuntimeError as error:
        # What Dify shows where a workflow ends at a node that failed.
        told["error"] = str(error)
    return told


def main() -> None:
    logging.disable()
    node_factory.SlimLLM = Model
    sandbox = ThreadingHTTPServer(("127.0.0.1", 0), Sandbox)
    threading.Thread(target=sandbox.serve_forever, daemon=True).start()
    for line in sys.stdin:
        told = run(json.loads(line), f"http://127.0.0.1:{sandbox.server_port}")
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
