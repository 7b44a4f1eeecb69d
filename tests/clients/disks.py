"""A small disk, which a test may fill up."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small(size: str) -> Iterator[Path | None]:
    """A file system of its own for a store; `None` where none may be mounted."""
    with tempfile.TemporaryDirectory(prefix="mirrorgate-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder]
        may = shutil.which("mount") is not None
        is_mounted = may and subprocess.run(mount, capture_output=True).returncode == 0
        try:
            yield Path(folder) if is_mounted else None
        finally:
            if is_mounted:
                subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Takes all of the disk's free space but so many bytes."""
    filler, space = disk / "filler", os.statvfs(disk)
    with filler.open("wb", buffering=0) as file:
        try:
            file.write(bytes(max(space.f_bavail * space.f_frsize - leave, 0)))
        except OSError:
            # The last of it was taken meanwhile: it is as full as it can be.
            pass
    return filler
