"""Callers who go on asking while the service or its store fails, and who take it at its word.

Each question has an `Idempotency-Key` and is sent again until its caller is told what became of it. What was
told is compared with the store at the end: what counts as kept is there once, in its order, what surely was
not kept is not there, and the upstream was paid once for each question.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

from . import plans, wire
from .gateway import Gateway
from .planned import Upstream

CALLERS = 8
TURNS = 4
# Longer than the service waits for anything before it tells.
DECIDED_WITHIN = 60.0
ASK_AGAIN = 0.05


@dataclass
class Word:
    """What one caller was told."""

    key: str
    # By conversation, in order.
    turns: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    # Questions of which it was told that they are not kept, and of which nobody knows.
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


class Load:
    """Callers at one or several replicas, who ask until they are stopped."""

    def __init__(self, gateways: list[Gateway], name: str, padding: int = 0) -> None:
        self.gateways, self.name, self.padding = gateways, name, padding
        self.words = [Word(key) for key in gateways[0].keys[:CALLERS]]
        self.wrong: list[str] = []
        self.told: Counter[str] = Counter()
        self.pauses: list[float] = []
        # The longest that somebody waited for a word.
        self.slowest = 0.0
        self.stopped = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self.tasks = [asyncio.create_task(self.hold_conversations(index, word)) for index, word in enumerate(self.words)]

    async def end(self) -> None:
        """Lets each caller be told what became of its last question."""
        self.stopped.set()
        for failure in await asyncio.gather(*self.tasks, return_exceptions=True):
            if failure is not None:
                self.wrong.append(f"a caller failed: {failure!r}")

    async def turns(self, count: int, seconds: float = 30.0) -> float:
        """Waits until so many more turns are acknowledged; how long that took."""
        begin, before = time.monotonic(), self.told["kept"]
        while self.told["kept"] < before + count:
            if time.monotonic() - begin > seconds:
                raise RuntimeError(f"{self.told['kept'] - before} of {count} turns within {seconds:.0f} s")
            await asyncio.sleep(0.005)
        return time.monotonic() - begin

    async def goes_on(self) -> None:
        """Waits for the next turn, and remembers for how long."""
        self.pauses.append(await self.turns(1))

    async def hold_conversations(self, index: int, word: Word) -> None:
        chance = random.Random(f"{self.name} {index}")
        number = 0
        while not self.stopped.is_set():
            conversation: str | None = None
            for turn in range(TURNS):
                spec = {"id": f"{self.name}-{index}-{number}-{turn}", "words": 5}
                if self.padding:
                    spec["padding"] = "x" * self.padding
                begin = time.monotonic()
                conversation = await self.ask(word, conversation, json.dumps(spec), chance)
                self.slowest = max(self.slowest, time.monotonic() - begin)
                if conversation is None or self.stopped.is_set():
                    break
            number += 1

    async def ask(self, word: Word, conversation: str | None, question: str, chance: random.Random) -> str | None:
        """Asks until something is known for good; the conversation, where it goes on."""
        name = {"Idempotency-Key": str(uuid.uuid4())}
        body = {"message": question, "conversation_id": conversation or ""}
        begin, was_broken = time.monotonic(), False
        while True:
            if time.monotonic() - begin > DECIDED_WITHIN:
                self.wrong.append(f"{question[:80]}: nothing is known after {DECIDED_WITHIN:.0f} s")
                word.unknown.add(question)
                return None
            gateway = chance.choice(self.gateways)
            try:
                answer = await gateway.call("POST", "/api/chat", body, key=word.key, headers=name)
            except ConnectionRefusedError:
                await asyncio.sleep(ASK_AGAIN)
                continue
            except (OSError, TimeoutError, wire.Broken):
                was_broken = True
                await asyncio.sleep(ASK_AGAIN)
                continue
            said = answer.json()
            if answer.status == 200:
                return self.acknowledged(word, question, said)
            code = said["error"]["code"]
            self.told[code] += 1
            if code == "storage_unavailable":
                if "idempotent-replayed" in answer.headers or (self.stopped.is_set() and not was_broken):
                    word.refused.add(question)
                    return None
                await asyncio.sleep(ASK_AGAIN)
            elif code in ("storage_uncertain", "answer_interrupted"):
                word.unknown.add(question)
                return None
            else:
                self.wrong.append(f"{question[:80]}: status {answer.status}, {said['error']}")
                return None

    def acknowledged(self, word: Word, question: str, said: dict) -> str:
        conversation = said["conversation_id"]
        known = word.turns.setdefault(conversation, [])
        known.append((question, said["answer"]))
        self.told["kept"] += 1
        if said["answer"] != text_of(question, len(known)):
            self.wrong.append(f"{conversation}: turn {len(known)} saw another history")
        return conversation

    async def delete(self, word: Word, conversation: str) -> bool:
        """Deletes a conversation; whether it was told that this is done."""
        answer = await self.gateways[0].call("DELETE", f"/api/conversations/{conversation}", key=word.key)
        if answer.status == 200:
            del word.turns[conversation]
        return answer.status == 200

    # --- the comparison ---

    async def settle(self, upstream: Upstream) -> dict[str, int]:
        """Compares what was told with the store and with what the upstream was paid for."""
        found: Counter[str] = Counter()
        for word in self.words:
            for conversation in set(word.turns) | set(await self.listed(word)):
                turns = await kept(self.gateways[0], word.key, conversation)
                if isinstance(turns, str):
                    self.wrong.append(f"{conversation}: {turns}, of {len(word.turns.get(conversation, []))} turns acknowledged")
                    found["lost"] += len(word.turns.get(conversation, []))
                else:
                    found += self.compared(word, conversation, turns)
        asked = (await upstream.ledger())["ledger"]
        twice = [ident for ident, requests in asked.items() if ident.startswith(self.name) and len(requests) > 1]
        self.wrong += [f"{ident} was paid for {len(asked[ident])} times" for ident in twice]
        return {"lost": found["lost"], "doubled": found["doubled"], "kept after all": found["kept after all"], "paid twice": len(twice)}

    async def listed(self, word: Word) -> list[str]:
        """The ids of all conversations of a caller."""
        ids, after = [], ""
        while after is not None:
            answer = await self.gateways[0].call("GET", f"/api/conversations?limit=1000&after={after}", key=word.key)
            page = answer.json()
            ids += [conversation["conversation_id"] for conversation in page["conversations"]]
            after = page["next_after"]
        return ids

    def compared(self, word: Word, conversation: str, turns: list[tuple[str, str]]) -> Counter[str]:
        known = word.turns.get(conversation, [])
        questions = Counter(question for question, _ in turns)
        extra = [turn for turn in turns if turn not in known]
        found = Counter(
            {
                "lost": sum(turn not in turns for turn in known),
                "doubled": sum(questions.values()) - len(questions),
                "kept after all": sum(question in word.refused for question, _ in extra),
            }
        )
        unasked = [question[:80] for question, _ in extra if question not in word.unknown | word.refused]
        if [turn for turn in turns if turn in known] != known or unasked or found.total():
            self.wrong.append(f"{conversation}: {len(known)} turns acknowledged, {len(turns)} kept, {dict(found)}, nobody's: {unasked}")
        return +found


def text_of(question: str, turn: int) -> str:
    spec = json.loads(question)
    return "".join(plans.words(spec["id"], spec["words"], turn))


async def kept(gateway: Gateway, key: str, conversation: str) -> list[tuple[str, str]] | str:
    """The turns of a conversation in the store, or what is wrong with them."""
    answer = await gateway.call("GET", f"/api/conversations/{conversation}", key=key)
    if answer.status != 200:
        return f"status {answer.status}"
    messages = answer.json()["messages"]
    if [message["role"] for message in messages] != ["user", "assistant"] * (len(messages) // 2):
        return "no pairs"
    texts = [message["content"] for message in messages]
    return list(zip(texts[::2], texts[1::2]))
