"""Writes each script of the workflows into a file of its own, for shellcheck.

Usage: workflow_scripts.py FOLDER WORKFLOW...
"""

from __future__ import annotations

import sys
from pathlib import Path

from ruamel.yaml import YAML

folder = Path(sys.argv[1])
for path in map(Path, sys.argv[2:]):
    workflow = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    for name, job in workflow["jobs"].items():
        for number, step in enumerate(job.get("steps", []), 1):
            if "run" in step:
                # The options that GitHub gives to bash.
                script = f"#!/usr/bin/env bash\nset -eo pipefail\n{step['run']}\n"
                (folder / f"{path.stem}-{name}-{number}.sh").write_text(script, encoding="utf-8")
