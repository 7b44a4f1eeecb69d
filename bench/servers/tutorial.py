"""The wrapper that tutorials show: FastAPI with plain functions, and a new connection for every call."""

import json
import os

import requests
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

UPSTREAM = os.environ["BENCH_UPSTREAM"]
app = FastAPI()


class ChatRequest(BaseModel):
    message: str
    model: str = "json"


@app.get("/health")
def health() -> dict:
    return {"status": "ok"}


@app.post("/v1/chat/completions")
def completions(body: dict):
    if not body.get("stream"):
        return requests.post(f"{UPSTREAM}/v1/chat/completions", json=body).json()

    def events():
        with requests.post(f"{UPSTREAM}/v1/chat/completions", json=body, stream=True) as answer:
            for line in answer.iter_lines():
                yield line + b"\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/api/chat")
def chat(question: ChatRequest) -> dict:
    body = {"message": question.message, "modelName": question.model}
    text = ""
    with requests.post(f"{UPSTREAM}/rest/app-chat/conversations/new", json=body, stream=True) as answer:
        for line in answer.iter_lines():
            if line:
                text += json.loads(line)["result"].get("response", {}).get("token", "")
    return {"success": True, "answer": text}
