"""A person at a terminal talks with `mirrorgate chat`: a real one, with a line editor and Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from bodies import text_chunks
from conftest import Service, provider_settings
from upstream import FAULTS, Reply, Upstream

Make = Callable[..., Service]

SECONDS = 20.0
UP = "\x1b[A"
CTRL_C, CTRL_D = "\x03", "\x04"
# What moves the cursor or colours, and is no text.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """The program with a terminal of its own, and what a person would have seen on it."""

    def __init__(self, gateway: Service, *arguments: str):
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(gateway.data_dir)
            environment = {**gateway.env, "TERM": "xterm"}
            os.execve(gateway.binary, [str(gateway.binary), *arguments], environment)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def until(self, words: str) -> str:
        """Reads until these words are seen; what came up to them, each text once."""
        deadline = time.monotonic() + SECONDS
        while words not in self._seen:
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"`{words}` is not seen: {self._seen!r}")
            try:
                read = os.read(self._terminal, 65536)
            except OSError:
                read = b""
            if not read:
                pytest.fail(f"it ended before `{words}`: {self._seen!r}")
            self._seen += CONTROL.sub("", read.decode(errors="replace"))
        seen, self._seen = self._seen.split(words, 1)
        return seen

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        pytest.fail("it does not end")

    def close(self) -> None:
        os.close(self._terminal)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(service: Make, provider: Upstream) -> Iterator[Terminal]:
    gateway = service(start=False, DEFAULT_MODEL="mirror-small", **provider_settings(provider))
    made = Terminal(gateway, "chat")
    made.until("/help lists commands")
    made.until("> ")
    yield made
    made.close()


def questions(provider: Upstream) -> list[list[str]]:
    """The messages of each question."""
    return [[message["content"] for message in request.body["messages"]] for request in provider.asked()]


def test_a_talk_goes_on_until_a_new_one_begins(terminal: Terminal, provider: Upstream):
    for text in ("Eins", "Zwei"):
        provider.replies.append(Reply.events(text_chunks("mirror-small", f"Answer to {text}")))
        terminal.type(f"{text}\r")
        terminal.until(f"Answer to {text}")
        terminal.until("tokens]")
        terminal.until("> ")
    assert questions(provider) == [["Eins"], ["Eins", "Answer to Eins", "Zwei"]]
    terminal.type("/model mirror-large\r")
    terminal.until("mirror-large is asked from now on")
    terminal.until("> ")
    terminal.type("/new\r")
    terminal.until("a new conversation begins")
    terminal.until("> ")
    # The line before the commands, by the history.
    terminal.type(UP * 3 + "!\r")
    terminal.until("tokens]")
    assert questions(provider)[-1] == ["Zwei!"]
    assert provider.asked()[-1].body["model"] == "mirror-large"
    terminal.until("> ")
    terminal.type("/model\r")
    terminal.until("* mirror-large")
    terminal.until("  mirror-small")
    terminal.until("> ")
    terminal.type("/nonsense\r")
    terminal.until("there is no command /nonsense")
    terminal.until("> ")
    terminal.type("/quit\r")
    assert terminal.ended() == 0


def test_ctrl_c_stops_the_answer_and_not_the_talk(terminal: Terminal, provider: Upstream):
    gate = provider.gate()
    provider.replies.append(Reply.events(text_chunks("mirror-small", "Half and half ")).halved(gate))
    terminal.type("Long\r")
    gate.reached()
    terminal.until("Half")
    terminal.type(CTRL_C)
    terminal.until("[stopped]")
    terminal.until("> ")
    gate.open()
    # At the prompt it drops the line, and the talk still stands.
    terminal.type("never asked" + CTRL_C)
    terminal.until("/quit or Ctrl-D ends")
    terminal.until("> ")
    terminal.type("Again\r")
    terminal.until("tokens]")
    assert questions(provider) == [["Long"], ["Again"]]
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0


def test_a_failure_is_told_and_the_talk_goes_on(terminal: Terminal, provider: Upstream):
    provider.fault = FAULTS["unauthorized"]
    terminal.type("Hello\r")
    terminal.until("(upstream_auth_expired)")
    terminal.until("hint: ")
    terminal.until("> ")
    provider.fault = None
    terminal.type("Hello\r")
    terminal.until("tokens]")
    terminal.until("> ")
    terminal.type("/quit\r")
    assert terminal.ended() == 0
