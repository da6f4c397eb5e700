"""How fast it starts: `import kerasbig`, `kerasbig --help`, `kerasbig samples`.

    python benchmarks/startup.py                           under a minute

Each figure is the median over fresh processes. The import's own time is that of `python -c "import kerasbig"` minus that of
`python -c pass`, the two taking turns; the commands' times are whole, the start of Python included. The import must load no
TensorFlow and leave the environment as it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from common import finish, parser, table, verdict

PROBE = """
import json, os, sys
before = dict(os.environ)
import kerasbig
loaded = {name: name in sys.modules for name in ("tensorflow", "keras")}
print(json.dumps({**loaded, "environment_changed": dict(os.environ) != before}))
"""
LIMIT = 0.2
PROCESSES = {
    "python -c pass": ["-c", "pass"],
    'python -c "import kerasbig"': ["-c", "import kerasbig"],
    "kerasbig --help": ["-m", "kerasbig", "--help"],
    "kerasbig samples": ["-m", "kerasbig", "samples"],
}


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=10, help="fresh processes of each kind (default %(default)s)")
    arguments = options.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(2 if arguments.quick else arguments.processes):
        for name, words in PROCESSES.items():
            taken[name].append(seconds(words))
    probed = json.loads(subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout)
    report(arguments, taken, probed)


def seconds(words: list[str]) -> float:
    """Runs Python in a fresh process and returns its wall time."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def report(arguments: argparse.Namespace, taken: dict[str, list[float]], probed: dict[str, Any]) -> None:
    """Prints the table and the JSON."""
    medians = {name: statistics.median(values) for name, values in taken.items()}
    imported = medians['python -c "import kerasbig"'] - medians["python -c pass"]
    rows = [[name, f"{medians[name]:.3f}", f"{min(values):.3f}", f"{max(values):.3f}"] for name, values in taken.items()]
    table(["process", "median s", "least", "most"], rows)
    print(", ".join(f"{name.replace('_', ' ')}: {'yes' if value else 'no'}" for name, value in probed.items()) + "\n")
    wanted = [
        verdict("import kerasbig", imported, "<", LIMIT, " s"),
        verdict("TensorFlow loaded by the import (0: no)", int(probed["tensorflow"]), "<=", 0),
        verdict("environment changed by the import (0: no)", int(probed["environment_changed"]), "<=", 0),
    ]
    finish("startup", arguments, {"seconds": taken, "medians": medians, "import_seconds": imported, **probed}, wanted)


if __name__ == "__main__":
    main()
