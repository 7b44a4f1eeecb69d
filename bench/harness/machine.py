"""The machine, the versions, and what its disk takes."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from pathlib import Path

from . import programs
from .programs import ROOT


def describe(targets: list[str]) -> dict[str, str]:
    versions = {"rust": _output("rustc", "--version"), "python": platform.python_version()}
    if program := programs.proxy("nginx"):
        versions["nginx"] = _output(program, "-v").replace("nginx version: nginx/", "")
    if (program := programs.proxy("haproxy")) and "haproxy" in targets:
        versions["haproxy"] = _output(program, "-v").removeprefix("HAProxy version ").split("-")[0]
    if "portkey" in targets:
        pins = json.loads((programs.BENCH / "servers/portkey/package.json").read_text())
        versions["portkey"] = pins["dependencies"]["@portkey-ai/gateway"]
    wanted = {"pooled": "fastapi uvicorn httpx", "tutorial": "requests", "litellm": "litellm"}
    for target, names in wanted.items():
        if target in targets:
            pins = "requirements-litellm.txt" if target == "litellm" else "requirements.txt"
            text = (programs.BENCH / "servers" / pins).read_text()
            for name in names.split():
                versions[name] = re.search(rf"^{name}==(.+)$", text, re.M).group(1)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{_release()}, Linux {platform.release().split('-')[0]}",
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"),
        **versions,
    }


def _processor() -> str:
    match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return match.group(1) if match else platform.machine()


def _release() -> str:
    match = re.search(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    return match.group(1) if match else "Linux"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "?"
    return (done.stdout or done.stderr).strip()
