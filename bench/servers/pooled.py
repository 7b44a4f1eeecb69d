"""A FastAPI wrapper written with care: asynchronous, connections reused, streams passed on as bytes."""

import json
import os
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask

UPSTREAM = os.environ["BENCH_UPSTREAM"]


@asynccontextmanager
async def lifespan(app: FastAPI):
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=UPSTREAM, limits=limits, timeout=None) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


class ChatRequest(BaseModel):
    message: str
    model: str = "json"


@app.get("/health")
async def health() -> dict:
    return {"status": "ok"}


@app.post("/v1/chat/completions")
async def completions(request: Request):
    client: httpx.AsyncClient = request.app.state.client
    body = await request.body()
    headers = {"Content-Type": "application/json"}
    call = client.build_request("POST", "/v1/chat/completions", content=body, headers=headers)
    answer = await client.send(call, stream=True)
    media = answer.headers.get("Content-Type")
    if "Content-Length" in answer.headers:
        content = await answer.aread()
        await answer.aclose()
        return Response(content, status_code=answer.status_code, media_type=media)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        media_type=media,
        background=BackgroundTask(answer.aclose),
    )


@app.post("/api/chat")
async def chat(question: ChatRequest, request: Request) -> dict:
    client: httpx.AsyncClient = request.app.state.client
    body = {"message": question.message, "modelName": question.model}
    tokens = []
    async with client.stream("POST", "/rest/app-chat/conversations/new", json=body) as answer:
        async for line in answer.aiter_lines():
            if line:
                tokens.append(json.loads(line)["result"].get("response", {}).get("token", ""))
    return {"success": True, "answer": "".join(tokens)}
