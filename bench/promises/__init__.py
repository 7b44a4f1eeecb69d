"""The parts of bench/battery: each promise of the service, tried on the real program."""

import harness  # noqa: F401 - it leads to the parts of tests/clients
