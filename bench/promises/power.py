"""The power is cut: what a disk may hold then is made from strace's log of all that was written, and must open as a
whole store with every turn in it that was acknowledged before.

What was synced is on the disk. Of what was written since, anything may be there or not, whole sectors of it too,
files may have their old size, and names that were made or removed may be so or not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .callers import kept
from .gateway import Gateway
from .planned import Upstream
from .plans import OPENAI
from .table import Row, Run, say

TRACED = ["strace", "-f", "-qq", "-y", "-xx", "--seccomp-bpf", "-s", str(1 << 20)]
TRACED += ["-e", "trace=openat,pwrite64,ftruncate,fsync,fdatasync,unlink"]
SYNCS = ("fsync", "fdatasync")
FOLDER = 0
SECTOR = 512
CALLERS = 6
# Of each cut: nothing of what was not synced, all of it, and so many times a part.
PARTS = 3


# --- the log ---


# A call that succeeded; and the texts in it, where `-xx` writes each byte as two digits: names, and what is written.
CALL = re.compile(rb"(\w+)\((.*)\) += (\d+)")
TEXT = re.compile(rb'[<"]((?:\\x\w\w)+)[>"]')


@dataclass
class Record:
    """What was done to a file, by the name of the call."""

    call: str
    file: int
    bytes: bytes
    offset: int
    # Where the log was when this had been done.
    end: int


def records(log: Path, folder: Path) -> Iterator[Record]:
    """What a program did to the files of its store, by what strace wrote down."""
    numbers, made = {str(folder): FOLDER}, itertools.count(FOLDER + 1)
    for text, end in calls(log):
        if not (match := CALL.match(text)):
            continue
        call, words = match[1].decode(), match[2]
        texts = [bytes.fromhex(found.replace(b"\\x", b"").decode()) for found in TEXT.findall(text)]
        # With `-y` a call's descriptors have their file's name, and what `openat` opened is told last.
        name = texts[-1 if call in ("openat", "unlink") else 0].decode()
        if not is_watched(name, folder) or (call == "openat" and name == str(folder)):
            continue
        if call == "openat" and name not in numbers:
            numbers[name] = next(made)
            yield Record(call, numbers[name], name.encode(), 0, end)
        if call == "openat" and b"O_TRUNC" in words:
            yield Record("ftruncate", numbers[name], b"", 0, end)
        elif call in ("pwrite64", "ftruncate"):
            written = texts[1][: int(match[3])] if call == "pwrite64" else b""
            yield Record(call, numbers[name], written, int(words.rpartition(b" ")[2]), end)
        elif call in SYNCS:
            yield Record(call, numbers[name], b"", 0, end)
        elif call == "unlink" and name in numbers:
            yield Record(call, numbers.pop(name), b"", 0, end)


def is_watched(name: str, folder: Path) -> bool:
    """The store's files are kept in this folder alone; what is in shared memory is no disk's."""
    return name == str(folder) or (name.startswith(f"{folder}/mirrorgate.db") and "-shm" not in name)


def calls(log: Path) -> Iterator[tuple[bytes, int]]:
    """Each call that ended, and where the log was then; another thread's may have ended while it went on."""
    begun: dict[bytes, bytes] = {}
    end = 0
    for line in log.open("rb"):
        end += len(line)
        thread, text = line.strip().split(maxsplit=1)
        if text.endswith(b"<unfinished ...>"):
            begun[thread] = text.removesuffix(b"<unfinished ...>")
        elif text.startswith(b"<... "):
            yield begun.pop(thread) + text.partition(b" resumed>")[2], end
        else:
            yield text, end


# --- the disk ---


@dataclass
class File:
    synced: bytearray = field(default_factory=bytearray)
    since: list[Record] = field(default_factory=list)


class Disk:
    """What is surely on the disk, and what may be."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.names: dict[int, str] = {}
        self.renamed: list[Record] = []

    def do(self, record: Record) -> None:
        if record.call in ("openat", "unlink"):
            self.renamed.append(record)
            self.files.setdefault(record.file, File())
        elif record.call not in SYNCS:
            self.files[record.file].since.append(record)
        elif record.file == FOLDER:
            name_all(self.names, self.renamed)
            self.renamed = []
        else:
            file = self.files[record.file]
            for before in file.since:
                change(file.synced, before)
            file.since = []

    @property
    def has_open_ends(self) -> bool:
        return bool(self.renamed) or any(file.since for file in self.files.values())

    def image(self, folder: Path, share: float, chance: random.Random) -> None:
        """Writes the files as they may be where this share of what was not synced has come through."""
        names = dict(self.names)
        name_all(names, [record for record in self.renamed if chance.random() < share])
        for number, name in names.items():
            file = self.files[number]
            there = bytearray(file.synced)
            for record in file.since:
                if chance.random() < share:
                    change(there, record, None if share == 1 else chance)
            (folder / Path(name).name).write_bytes(there)


def name_all(names: dict[int, str], records: list[Record]) -> None:
    for record in records:
        if record.call == "openat":
            names[record.file] = record.bytes.decode()
        else:
            names.pop(record.file, None)


def change(content: bytearray, record: Record, tearing: random.Random | None = None) -> None:
    """Does to a file what was done; with `tearing` every second time some sectors of a write only."""
    if record.call == "ftruncate":
        grown = record.offset - len(content)
        content[record.offset :] = bytes(max(grown, 0))
        return
    is_torn = tearing is not None and tearing.random() < 0.5
    for at in range(0, len(record.bytes), SECTOR) if is_torn else [0]:
        piece = record.bytes[at : at + SECTOR] if is_torn else record.bytes
        if is_torn and tearing.random() < 0.5:
            continue
        begin = record.offset + at
        content.extend(bytes(max(begin - len(content), 0)))
        content[begin : begin + len(piece)] = piece


# --- what was told ---


@dataclass
class Told:
    """What callers were told, each with where the log was then."""

    turns: list[tuple[int, str, str, str, str]] = field(default_factory=list)
    deleting: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)

    def at(self, end: int) -> tuple[dict[str, tuple[str, str]], set[str]]:
        """What must be there of a log cut at this place: turns by question; and the conversations that must not."""
        turns = {
            question: (conversation, answer)
            for told, _, conversation, question, answer in self.turns
            if told <= end and self.deleting.get(conversation, end + 1) > end
        }
        return turns, {conversation for conversation, told in self.deleted.items() if told <= end}


async def talk(gateway: Gateway, log: Path, key: str, name: str, told: Told, count: int) -> None:
    """Holds conversations, and deletes every third."""
    for number in itertools.count():
        conversation = ""
        for turn in range(3):
            if len(told.turns) >= count:
                return
            question = json.dumps({"id": f"{name}-{number}-{turn}", "words": 5, "padding": "x" * random.randrange(8000)})
            body = {"message": question, "conversation_id": conversation}
            said = (await gateway.call("POST", "/api/chat", body, key=key)).json()
            conversation = said["conversation_id"]
            told.turns.append((log.stat().st_size, key, conversation, question, said["answer"]))
        if number % 3 == 2:
            told.deleting[conversation] = log.stat().st_size
            answer = await gateway.call("DELETE", f"/api/conversations/{conversation}", key=key)
            if answer.status == 200:
                told.deleted[conversation] = log.stat().st_size


# --- the check ---


def examine(folder: Path, told: Told, end: int) -> list[str]:
    """What is wrong with a store that was found so."""
    must, must_not = told.at(end)
    path = folder / "mirrorgate.db"
    if not path.exists():
        return [f"no file, {len(must)} turns lost"] if must else []
    try:
        database = sqlite3.connect(path)
        database.execute("PRAGMA synchronous = OFF")
        verdict = database.execute("PRAGMA integrity_check").fetchall()
        if verdict != [("ok",)]:
            return [f"integrity check: {verdict}"]
        is_new = not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'turns'").fetchall()
        there = [] if is_new else database.execute("SELECT question, id, answer FROM turns").fetchall()
        heads = [] if is_new else database.execute("SELECT id, turns FROM conversations WHERE turns > 0").fetchall()
        database.close()
    except sqlite3.Error as error:
        return [repr(error)]
    found = {question: (conversation, answer) for question, conversation, answer in there}
    wrong = []
    if lost := [question[:60] for question, turn in must.items() if found.get(question) != turn]:
        wrong.append(f"{len(lost)} acknowledged turns lost, such as {lost[0]}")
    if len(found) != len(there):
        wrong.append(f"{len(there) - len(found)} turns doubled")
    if risen := must_not & {conversation for conversation, _ in heads}:
        wrong.append(f"deleted conversations are there again: {risen}")
    counted = Counter(conversation for _, conversation, _ in there)
    if dict(heads) != dict(counted):
        wrong.append("conversations have other turns than they say")
    return wrong


async def reopen(run: Run, upstream: Upstream, folder: Path, keys: list[str], told: Told, end: int) -> list[str]:
    """What is wrong with a store when the program itself has opened it."""
    gateway = Gateway(run.binary, keys, **upstream.settings(OPENAI), DATA_DIR=folder)
    try:
        await gateway.started()
        must, _ = told.at(end)
        owner = {conversation: key for _, key, conversation, _, _ in told.turns}
        wrong = []
        for conversation in {conversation for conversation, _ in must.values()}:
            turns = await kept(gateway, owner[conversation], conversation)
            acknowledged = {(question, answer) for question, (id, answer) in must.items() if id == conversation}
            if isinstance(turns, str):
                wrong.append(f"{conversation}, read by the program: {turns}")
            elif lost := acknowledged - set(turns):
                wrong.append(f"{conversation}, read by the program: {len(lost)} acknowledged turns lost")
        return wrong
    except RuntimeError as error:
        return [f"the program does not start: {error}"]
    finally:
        await gateway.removed()


async def record(run: Run, upstream: Upstream, log: Path, told: Told) -> Gateway:
    """One life of the program under load, from the first start to an end in good order."""
    gateway = Gateway(run.binary, **upstream.settings(OPENAI))
    gateway.command = [*TRACED, "-o", str(log), *gateway.command]
    try:
        await gateway.started()
        turns = run.size(2000, 200)
        keys = gateway.keys[:CALLERS]
        talkers = [talk(gateway, log, key, f"power-{index}", told, turns) for index, key in enumerate(keys)]
        await asyncio.gather(*talkers)
        return gateway
    finally:
        await gateway.removed()


async def check(run: Run) -> None:
    upstream, told, chance = Upstream(), Told(), random.Random(20261126)
    scratch = Path(tempfile.mkdtemp(prefix="mirrorgate-battery-power-", dir="/dev/shm"))
    log = Path(tempfile.mkstemp(prefix="mirrorgate-battery-power-")[1])
    try:
        gateway = await record(run, upstream, log, told)
        done = list(records(log, gateway.folder))
        seen = Counter(record.call for record in done)
        syncs = sum(seen[call] for call in SYNCS)
        say(f"{len(told.turns):,} turns, {len(told.deleted):,} deletes, {seen['pwrite64']:,} writes, {syncs:,} syncs")
        wrong, cuts, images, reopened = await cut_everywhere(run, upstream, scratch / "image", done, gateway.keys, told, chance)
        if not syncs or not cuts:
            wrong.append("no sync was seen")
        figure = f"{len(told.turns):,} turns, {cuts:,} cuts, {images:,} images, {reopened} opened by the program, {len(wrong)} wrong"
        limit = "0 acknowledged turns lost, 0 doubled, each store whole"
        run.add(Row("the power is cut (SQLite)", limit, figure, not wrong, wrong, {"syncs": syncs}))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        log.unlink()
        upstream.close()


async def cut_everywhere(
    run: Run, upstream: Upstream, folder: Path, done: list[Record], keys: list[str], told: Told, chance: random.Random
) -> tuple[list[str], int, int, int]:
    """Cuts the log before each sync and after it, and at other places."""
    disk, wrong = Disk(), []
    cuts = images = reopened = 0
    before = 0
    for number, record in enumerate(done):
        # Before this record: what it is about has not happened.
        is_cut = record.call in SYNCS or (number and done[number - 1].call in SYNCS) or chance.random() < 0.005
        if is_cut and chance.randrange(run.size(2, 3)) == 0:
            cuts += 1
            shares = [0.0, 1.0, *(chance.random() for _ in range(PARTS))] if disk.has_open_ends else [0.0]
            for share in shares:
                folder.mkdir()
                disk.image(folder, share, chance)
                images += 1
                found = []
                if images % run.size(300, 150) == 0:
                    reopened += 1
                    found = await reopen(run, upstream, folder, keys, told, before)
                found += examine(folder, told, before)
                wrong += [f"cut {cuts} at byte {before:,} of the log, {share:.0%} of what was not synced: {what}" for what in found]
                shutil.rmtree(folder)
        disk.do(record)
        before = record.end
    return wrong, cuts, images, reopened
