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

PINS = (SERVERS / "requirements.txt", SERVERS / "requirements-litellm.txt", SERVERS / "portkey/package.json")
# With each target the packages whose versions are told.
PACKAGES = {
    "pooled": ["fastapi", "uvicorn", "httpx"],
    "tutorial": ["requests"],
    "portkey": ["portkey"],
    "litellm": ["litellm"],
}


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
    told = {"nginx": _found(r"nginx/([\d.]+)", output("nginx", "-v"))}
    if "haproxy" in targets:
        told["haproxy"] = _found(r"version ([\d.]+)", output("haproxy", "-v"))
    for name in (name for target, names in PACKAGES.items() if target in targets for name in names):
        told[name] = _found(rf'^{name}==(.+)$|"@{name}-ai/gateway": "(.+)"', pins)
    return told


def output(program: str, *arguments: object) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:{SYSTEM}")
    done = found and subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip() if done else "?"


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return next(filter(None, match.groups())) if match else "?"
