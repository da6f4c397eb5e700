"""Two hosts, each with a network of its own, and the link between them cut in the middle of a training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "multihost/two_hosts.sh"


def can_make_hosts() -> bool:
    """Makes a namespace with a veth pair, as the script does, and removes it."""
    name = f"kerasbig-probe-{os.getpid()}"
    probe = f"ip netns add {name} && ip -n {name} link add one type veth peer name other; code=$?; ip netns del {name}; exit $code"
    return subprocess.run(["bash", "-c", probe], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cut_link_ends_both_workers_and_they_go_on(tmp_path: Path) -> None:
    if not can_make_hosts():
        pytest.skip("needs root and iproute2 to make network namespaces")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False, env=environment)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
