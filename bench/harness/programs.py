"""Builds and installs what the benchmark runs; nothing outside of target/ is written."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"
TARGET = ROOT / "target" / "bench"
RELEASE = TARGET / "release"


def build_own() -> None:
    """The upstream, the load generator and the minimal proxy."""
    manifest = BENCH / "Cargo.toml"
    _run("cargo", "build", "--release", "--locked", "--manifest-path", manifest, "--target-dir", TARGET)


def build_product() -> Path:
    _run("cargo", "build", "--profile", "dist", "--locked")
    return ROOT / "target" / "dist" / "mirrorgate"


def venv(requirements: str) -> Path:
    """The folder of programs of a virtual environment that holds these packages."""
    pins = BENCH / "servers" / requirements
    folder = TARGET / pins.stem.replace("requirements", "venv")
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_bytes() != pins.read_bytes():
        print(f"installing {requirements} into {folder.relative_to(ROOT)}", file=sys.stderr)
        _run(sys.executable, "-m", "venv", "--clear", folder)
        _run(folder / "bin" / "pip", "install", "--quiet", "--requirement", pins)
        shutil.copy(pins, installed)
    return folder / "bin"


def portkey() -> Path:
    """The script that starts Portkey's gateway, installed from its package."""
    pins = BENCH / "servers" / "portkey"
    folder = TARGET / "portkey"
    installed, lock = folder / "installed.json", pins / "package-lock.json"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        print(f"installing Portkey's gateway into {folder.relative_to(ROOT)}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(pins / name, folder / name)
        _run("npm", "ci", "--silent", "--ignore-scripts", "--prefix", folder)
        shutil.copy(lock, installed)
    return folder / "node_modules/@portkey-ai/gateway/build/start-server.js"


def raise_limits() -> None:
    """As many open files as the system allows: 3,000 streams are 6,000 connections of a proxy."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def proxy(name: str) -> str | None:
    # Debian puts it where only root's PATH leads.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    if subprocess.run(words, cwd=ROOT, stdout=sys.stderr).returncode != 0:
        raise SystemExit(f"failed: {' '.join(words)}")
