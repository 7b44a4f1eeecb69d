"""What a durable turn is measured by: the disk alone, and PostgreSQL asked by its own pgbench for one INSERT."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import postgres

# As much as a small turn adds to SQLite's log, which is then used from its beginning again.
WRITTEN = 8192
LOG = 4 << 20
# A turn's row, as the program's own: a question of 120 characters and an answer of 20 words.
TABLE = (
    "CREATE TABLE yardstick (owner TEXT, id TEXT, number BIGINT, question TEXT, answer TEXT, created_at BIGINT,"
    " PRIMARY KEY (owner, id, number))"
)
INSERT = (
    "INSERT INTO yardstick VALUES (repeat('a', 32), gen_random_uuid()::text, 1, repeat('Explain it. ', 10),"
    " repeat('tok ', 20), CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT));\n"
)


def disk(measure_ms: int) -> dict:
    """Writes one after the other, each waited for with fdatasync, where the stores of the benchmark lie."""
    times: list[float] = []
    with tempfile.NamedTemporaryFile(prefix="mirrorgate-bench-") as file:
        os.write(file.fileno(), bytes(LOG))
        os.fsync(file.fileno())
        end = time.perf_counter() + measure_ms / 1e3
        while (begin := time.perf_counter()) < end:
            os.pwrite(file.fileno(), bytes(WRITTEN), len(times) * WRITTEN % LOG)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1e6)
    return _figures(times, len(times) / (measure_ms / 1e3))


def pgbench(cluster: postgres.Cluster, connections: int, measure_ms: int) -> dict:
    """One INSERT a transaction, in as many connections as there are callers."""
    url = cluster.new_database()
    name = url.rpartition("/")[2]
    cluster.sql(TABLE, name)
    with tempfile.TemporaryDirectory(prefix="mirrorgate-bench-pgbench-") as folder:
        script = Path(folder) / "insert.sql"
        script.write_text(INSERT)
        command = [cluster.programs / "pgbench", "--no-vacuum", "--protocol=extended", f"--file={script}"]
        command += [f"--client={connections}", f"--time={max(measure_ms // 1000, 1)}"]
        command += ["--log", f"--log-prefix={folder}/log", url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # The third column is the time of a transaction in microseconds.
        lines = [line.split() for path in Path(folder).glob("log.*") for line in path.read_text().splitlines()]
    cluster.sql(f"DROP DATABASE {name}")
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    return _figures([float(line[2]) for line in lines], float(rate[1]) if rate else 0.0)


def _figures(times: list[float], rate: float) -> dict:
    if not times:
        # On a machine that is too busy to commit anything in the time.
        return {"errors": 1, "error_kinds": {"nothing was committed": 1}}
    ordered = sorted(times)
    return {
        "requests_per_second": rate,
        "p50_us": statistics.median(ordered),
        "p99_us": ordered[len(ordered) * 99 // 100],
        "errors": 0,
    }
