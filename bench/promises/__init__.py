"""The parts of bench/battery: each promise of the service, tried on the real program."""
