"""Asks with LlamaIndex's model for servers like OpenAI's, for test_llamaindex.py.

A program of its own, because LlamaIndex wants another major version of OpenAI's library than the other
tests. It is given the base URL and the key, offers three tools, and prints as one line of JSON which of them
were called, whole and streamed.
"""

from __future__ import annotations

import json
import sys

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

NAMES = ["weather", "population", "history"]


def about(city: str) -> str:
    return city


def main(base: str, key: str) -> None:
    model = OpenAILike(
        model="mirror-small",
        api_base=base,
        api_key=key,
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    )
    tools = [FunctionTool.from_defaults(about, name=name, description="about a city") for name in NAMES]
    question = {"user_msg": "你好", "allow_parallel_tool_calls": True}
    *_, streamed = model.stream_chat_with_tools(tools, **question)
    answers = {"whole": model.chat_with_tools(tools, **question), "streamed": streamed}
    called = {}
    for way, response in answers.items():
        calls = model.get_tool_calls_from_response(response)
        called[way] = [[call.tool_id, call.tool_name, call.tool_kwargs] for call in calls]
    print(json.dumps(called))


if __name__ == "__main__":
    main(*sys.argv[1:])
