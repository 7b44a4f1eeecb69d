"""The machine, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

from .programs import ROOT, SERVERS, SYSTEM
from .servers import PROGRAMS

PINS = (SERVERS / "requirements.txt", SERVERS / "requirements-litellm.txt", SERVERS / "portkey/package.json")


def describe() -> dict[str, str]:
    """Where and when."""
    system = _found('PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": _found(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{system}, Linux {platform.release().split('-')[0]}",
        "commit": output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"),
        "rust": output("rustc", "--version"),
        "python": platform.python_version(),
    }


def versions(targets: list[str]) -> dict[str, str]:
    """Of the programs that mirrorgate is compared with."""
    pins = "\n".join(path.read_text() for path in PINS)
    packages = (name for target in targets if target in PROGRAMS for name in PROGRAMS[target].packages)
    told = {name: _found(rf'^{name}==(.+)$|"@{name}-ai/gateway": "(.+)"', pins) for name in packages}
    installed = (program for program in ("nginx", "haproxy") if program in targets)
    return {program: _found(r"(?:/|version )([\d.]+)", output(program, "-v")) for program in installed} | told


def output(program: str, *arguments: object) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:{SYSTEM}")
    done = found and subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip() if done else "?"


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return next(filter(None, match.groups())) if match else "?"
