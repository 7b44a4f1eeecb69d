"""Builds and installs what is run; nothing outside of target/ is written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"
SERVERS = BENCH / "servers"
TARGET = ROOT / "target" / "bench"
RELEASE = TARGET / "release"
# Debian puts proxies where only root's PATH leads.
SYSTEM = "/usr/sbin:/usr/local/sbin"


def build_own() -> None:
    """The upstream, the load generator and the minimal proxy."""
    manifest = BENCH / "Cargo.toml"
    _run("cargo", "build", "--release", "--locked", "--manifest-path", manifest, "--target-dir", TARGET)


def build_product(profile: str = "dist") -> Path:
    _run("cargo", "build", "--profile", profile, "--locked")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / profile / "mirrorgate"


def _installed(folder: Path, pins: Path, install: list[list[object]]) -> Path:
    """Installs into a folder what the pins say, if that is not there."""
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_bytes() != pins.read_bytes():
        print(f"installing {pins.relative_to(BENCH)} into {folder.relative_to(ROOT)}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        for command in install:
            _run(*command)
        shutil.copy(pins, installed)
    return folder


def venv(pins: Path, folder: Path) -> Path:
    """The programs of a virtual environment that holds these packages."""
    pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", pins]
    return _installed(folder, pins, [[sys.executable, "-m", "venv", "--clear", folder], pip]) / "bin"


def wrappers() -> Path:
    return venv(SERVERS / "requirements.txt", TARGET / "venv")


def litellm() -> Path:
    return venv(SERVERS / "requirements-litellm.txt", TARGET / "venv-litellm")


def portkey() -> Path:
    pins, folder = SERVERS / "portkey", TARGET / "portkey"
    copies = [["cp", pins / name, folder] for name in ("package.json", "package-lock.json")]
    install = ["npm", "ci", "--silent", "--ignore-scripts", "--prefix", folder]
    return _installed(folder, pins / "package-lock.json", [*copies, install])


def raise_limits(need: int = 0) -> None:
    """As many open files as the system allows: 3,000 streams are 6,000 connections of a proxy."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < need:
        raise SystemExit(f"{need} descriptors are needed, {most} are allowed: ulimit -n {need}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 1 << 16), most))


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    if subprocess.run(words, cwd=ROOT, stdout=sys.stderr).returncode != 0:
        raise SystemExit(f"failed: {' '.join(words)}")
