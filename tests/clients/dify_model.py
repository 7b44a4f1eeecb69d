"""Drives Dify's own class for OpenAI-compatible models, for test_dify_plugin.py.

A program of its own, because `dify_plugin` rebuilds the process that imports it around gevent. It
reads one job a line from standard input and prints what the class made of it, as one line of JSON:

    {"do": "invoke", "url": "http://.../v1", "key": "...", "model": "...", "stream": true}
"""

from __future__ import annotations

import json
import sys
from typing import Any

from dify_plugin.entities.model.llm import LLMMode, LLMResultChunk
from dify_plugin.entities.model.message import (
    AssistantPromptMessage,
    PromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    ToolPromptMessage,
    UserPromptMessage,
)
from dify_plugin.errors.model import CredentialsValidateFailedError, InvokeError
from dify_plugin.interfaces.model.openai_compatible.llm import OAICompatLargeLanguageModel

MESSAGES = {
    "assistant": AssistantPromptMessage,
    "system": SystemPromptMessage,
    "tool": ToolPromptMessage,
    "user": UserPromptMessage,
}


class Model(OAICompatLargeLanguageModel):
    """The class as it is, but for its tokenizer, which would fetch a vocabulary from the net."""

    # Where the plugin keeps its class: errors carry a part of this name.
    __module__ = "models.llm.llm"

    def _get_num_tokens_by_gpt2(self, text: str) -> int:
        return 1_000_000 + len(text)


def credentials(job: dict) -> dict[str, Any]:
    """What a user fills in where Dify asks for an OpenAI-compatible model."""
    return {
        "endpoint_url": job["url"],
        "api_key": job["key"],
        "mode": LLMMode.CHAT.value,
        "context_size": "8192",
        "function_calling_type": "tool_call",
        "stream_function_calling": "supported",
        "vision_support": "support",
        "stream_mode_auth": "use" if job.get("validate_by_stream") else "not_use",
        "stream_mode_delimiter": "\\n\\n",
    }


def validate(job: dict) -> dict:
    Model([]).validate_credentials(job["model"], credentials(job))
    return {}


def invoke(job: dict) -> dict:
    messages: list[PromptMessage] = [MESSAGES[m.pop("role")](**m) for m in job["messages"]]
    tools = [PromptMessageTool(**tool) for tool in job.get("tools", [])]
    chunks: list[LLMResultChunk] = list(
        Model([]).invoke(
            model=job["model"],
            credentials=credentials(job),
            prompt_messages=messages,
            model_parameters=job.get("parameters", {}),
            tools=tools or None,
            stream=job["stream"],
        )
    )
    usages = [chunk.delta.usage for chunk in chunks if chunk.delta.usage]
    return {
        "text": "".join(str(chunk.delta.message.content or "") for chunk in chunks),
        "pieces": len(chunks),
        "calls": [call.model_dump() for chunk in chunks for call in chunk.delta.message.tool_calls],
        "finish": chunks[-1].delta.finish_reason,
        "tokens": [usages[-1].prompt_tokens, usages[-1].completion_tokens],
    }


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        try:
            told = {"validate": validate, "invoke": invoke}[job["do"]](job)
        except (CredentialsValidateFailedError, InvokeError, ValueError) as error:
            # What Dify shows to its user.
            told = {"error": getattr(error, "description", None) or str(error)}
            told["kind"] = type(error).__name__
        except Exception as error:
            told = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
