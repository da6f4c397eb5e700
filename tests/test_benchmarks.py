"""The benchmark programs: they answer --help, the cheap ones run, and their sums are right."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PROGRAMS = (
    "accuracy",
    "allocation",
    "compression",
    "detection",
    "distribution",
    "explain",
    "faces",
    "generation",
    "packing",
    "startup",
    "step_cost",
    "training",
    "variants",
    "vision",
)


@pytest.fixture
def module(monkeypatch):
    """Imports a program as Python does when it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / f"{program}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_the_docstring_with_its_command(program):
    done = run(program, "--help")
    assert done.returncode == 0
    assert f"python benchmarks/{program}.py" in done.stdout
    assert "--quick" in done.stdout


def test_startup_measures_and_writes_what_it_prints(tmp_path):
    done = run("startup", "--quick", "--json", tmp_path / "startup.json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed == json.loads((tmp_path / "startup.json").read_text())
    assert printed["tensorflow"] is False
    assert printed["environment_changed"] is False
    assert 0 < printed["medians"]["python -c pass"] < printed["medians"]["kerasbig --help"]
    assert {"cpu", "cores", "memory_gib"} <= set(printed["machine"])
    assert {"kerasbig", "tensorflow", "keras"} <= set(printed["versions"])


@pytest.mark.parametrize(
    ("value", "comparison", "target", "passed"),
    [(4, ">=", 4, True), (3.9, ">=", 4, False), (27.1, "<=", 27, False), (0.2, "<", 0.2, False)],
)
def test_verdict(module, value, comparison, target, passed):
    assert module("common").verdict("it", value, comparison, target)["passed"] is passed


@pytest.mark.parametrize(("quick", "code"), [(False, 1), (True, None)])
def test_a_missed_target_fails_the_program_but_not_a_quick_run(module, capsys, quick, code):
    common = module("common")
    missed = common.verdict("speed", 1.0, ">=", 4.0, "x")
    arguments = SimpleNamespace(quick=quick, json=None)
    if code is None:
        common.finish("it", arguments, {}, [missed])
    else:
        with pytest.raises(SystemExit) as stopped:
            common.finish("it", arguments, {}, [missed])
        assert stopped.value.code == code
    assert "MISSED" in capsys.readouterr().out


def test_gains_compare_turns_of_the_same_round(module):
    rates = {"kerashub": [10.0, 20.0, 10.0], "kerasbig": [60.0, 100.0, 70.0], "padding_alone": [30.0, 40.0]}
    assert module("training").gains(rates) == {"kerashub": 1.0, "kerasbig": 6.0, "padding_alone": 3.5}


def test_the_clock_leaves_out_the_first_step(module):
    clock = module("training").step_clock()
    clock.ends = [10.0, 11.0, 12.0]  # the first step took any time before 10.0
    assert clock.steady_rate(32) == 32.0


def test_latencies_take_turns_and_leave_out_the_warm_up(module):
    order: list[str] = []

    def predictor(name):
        return SimpleNamespace(logits=lambda texts: order.append(name + texts[0]))

    taken = module("compression").latencies({"a": predictor("a"), "b": predictor("b")}, [str(i) for i in range(30)])
    assert {name: len(values) for name, values in taken.items()} == {"a": 30, "b": 30}
    assert order[:4] == ["a0", "b0", "a1", "b1"]
    assert len(order) == 2 * (30 + 20)


def test_expected_efficiency_of_a_ring(module):
    efficiency = module("distribution").expected_efficiency
    # 8 devices, 1 GB, 80 Gbit/s = 10 GB/s: 14 messages of 1/8 GB take 0.175 s, and 14 times 20 microseconds.
    assert efficiency(0.175 + 14 * 20e-6, 1e9, 8, 80.0) == pytest.approx(0.5)
    assert efficiency(1.0, 1e9, 1, 80.0) == 1.0


def test_weights_counts_bytes_and_zeros_of_a_compressed_file(module, tmp_path):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((100, 100), "float32"), compression="gzip")
        file.create_dataset("layers/dense/vars/1", data=np.ones((100, 100), "float32"), compression="gzip")
    found = module("compression").weights(tmp_path)
    assert found["raw_bytes"] == 80_000
    assert found["zeros"] == 0.5
    assert found["file_bytes"] == (tmp_path / "model.weights.h5").stat().st_size < 80_000


def test_compression_refuses_a_run_that_is_not_pruned(module):
    run = SimpleNamespace(options={"compression": None}, folder="runs/a")
    with pytest.raises(SystemExit, match=r"Expected PRUNED_RUN to be pruned with --prune 0\.5\. Received: runs/a, with no pruning"):
        module("compression").check_pruned(run)


def test_compression_wants_four_folders_or_none(tmp_path):
    done = run("compression", tmp_path)
    assert done.returncode == 2
    assert "expected RUN PRUNED_RUN BUNDLE PRUNED_BUNDLE" in done.stderr


# The others train for minutes even so: docs/benchmarks.md says how to run them.
@pytest.mark.slow
def test_a_quick_run_ends_with_json():
    done = run("packing", "--quick")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["benchmark"] == "packing"
