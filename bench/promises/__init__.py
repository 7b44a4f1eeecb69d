"""The parts of bench/battery: each promise of the service, tried on the real program."""

import sys
from pathlib import Path

# The upstream is the one that the tests with real clients have.
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "tests/clients"))
