"""The parts of the benchmark's driver, and what the battery has of them."""

import sys
from pathlib import Path

# The private PostgreSQL and the battery's upstream are those that the tests with real clients have.
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "tests/clients"))
