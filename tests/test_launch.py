"""Workers that are started together, how they end, and what is left of a training when some are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kerasbig.distribute import launch

HERE = Path(__file__).parent


def kill(place: str, step: int, worker: int, name: str, epoch: int) -> dict[str, object]:
    return {"worker": worker, "place": place, "epoch": epoch, "step": step, "signal": f"SIG{name}"}


# Twenty deaths, each list in the order of the training: 4 epochs of 4 steps, 2 batches in each evaluation. Only the chief saves.
ALL_KILLS = {
    2: [
        kill("step", 1, 1, "KILL", epoch=0),
        kill("save", 2, 0, "KILL", epoch=0),
        kill("step", 3, 0, "TERM", epoch=0),
        kill("evaluation", 1, 0, "KILL", epoch=0),
        kill("step", 1, 0, "KILL", epoch=1),
        kill("save", 2, 0, "TERM", epoch=1),
        kill("evaluation", 2, 1, "TERM", epoch=1),
        kill("step", 2, 1, "TERM", epoch=2),
        kill("save", 3, 0, "KILL", epoch=2),
        kill("evaluation", 1, 1, "KILL", epoch=2),
        kill("step", 3, 1, "KILL", epoch=3),
        kill("evaluation", 2, 0, "TERM", epoch=3),
    ],
    1: [
        kill("step", 1, 0, "KILL", epoch=0),
        kill("save", 2, 0, "TERM", epoch=0),
        kill("evaluation", 1, 0, "KILL", epoch=0),
        kill("step", 2, 0, "TERM", epoch=1),
        kill("save", 3, 0, "KILL", epoch=1),
        kill("evaluation", 2, 0, "TERM", epoch=2),
        kill("save", 1, 0, "KILL", epoch=3),
        kill("step", 3, 0, "KILL", epoch=3),
    ],
}
# After each death every worker starts anew, which is what takes long: seven will do, at each place, by each signal and of each worker.
FEW = {2: (0, 1, 6, 7), 1: (1, 2, 7)}
KILLS = ALL_KILLS if os.environ.get("KERASBIG_EVERY_FORM") == "1" else {n: [ALL_KILLS[n][i] for i in FEW[n]] for n in ALL_KILLS}


def train(folder: Path, kills: list[dict], workers: int) -> dict[str, np.ndarray]:
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(kills), encoding="utf-8")
    command = [sys.executable, str(HERE / "killed_training.py"), str(folder / "plan.json"), str(folder)]
    code = launch(command, workers, folder / "logs", restarts=len(kills))
    assert code == 0, (folder / "logs/worker-0.log").read_text(encoding="utf-8")[-3000:]
    assert len(list(folder.glob("killed-*"))) == len(kills)
    assert not (folder / "resume.npz").exists()
    with np.load(folder / "weights.npz") as file:
        return dict(file)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", KILLS)
def test_killed_and_started_again_equals_uninterrupted(workers: int, tmp_path: Path) -> None:
    whole, killed = train(tmp_path / "whole", [], workers), train(tmp_path / "killed", KILLS[workers], workers)
    assert whole.keys() == killed.keys()
    for name in whole.keys() - {"history"}:
        np.testing.assert_array_equal(killed[name], whole[name])
    for one, other in zip(json.loads(str(whole["history"])), json.loads(str(killed["history"])), strict=True):
        assert other == pytest.approx(one, rel=1e-6)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_each_worker_has_its_place_and_its_log(tmp_path: Path) -> None:
    assert launch(python("import os; print(os.environ['TF_CONFIG'])"), 3, tmp_path) == 0
    configs = [json.loads((tmp_path / f"worker-{n}.log").read_text(encoding="utf-8").splitlines()[-1]) for n in range(3)]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    assert configs[0]["cluster"] == configs[1]["cluster"]
    assert len(set(configs[0]["cluster"]["worker"])) == 3


# What the second worker does; the first waits for ever.
SECOND = "import json, os, sys, time\nif json.loads(os.environ['TF_CONFIG'])['task']['index'] == 1:\n    {}\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("action", "code", "attempts"), [("sys.exit(1)", 1, 1), ("os.kill(os.getpid(), 9)", 137, 3), ("sys.exit(143)", 143, 3)]
)
def test_all_end_when_one_does_and_start_again_if_that_may_help(action: str, code: int, attempts: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kerasbig.distribute.launching.GRACE_SECONDS", 0.2)
    started = time.monotonic()
    assert launch(python(SECOND.format(action)), 2, tmp_path, restarts=2) == code
    assert (tmp_path / "worker-0.log").read_text(encoding="utf-8").count("--- attempt") == attempts
    assert time.monotonic() - started < 60


def test_a_launcher_that_is_told_to_stop_tells_its_workers(tmp_path: Path) -> None:
    worker = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        "print('up', flush=True)\ntime.sleep(600)"
    )
    code = f"import sys\nfrom kerasbig.distribute import launch\nsys.exit(launch([sys.executable, '-c', {worker!r}], 2, {str(tmp_path)!r}))"
    process = subprocess.Popen(python(code))
    logs = [tmp_path / f"worker-{n}.log" for n in range(2)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(log.exists() and "up\n" in log.read_text(encoding="utf-8") for log in logs):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert all("saved" in log.read_text(encoding="utf-8") for log in logs)


@pytest.mark.parametrize(("workers", "restarts"), [(0, 1), (1, -1)])
def test_wrong_numbers(workers: int, restarts: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"Received: workers={workers}, restarts={restarts}"):
        launch(python(""), workers, tmp_path, restarts=restarts)


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kerasbig", *words], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_the_command_line_takes_a_training_only() -> None:
    done = command("launch", "--workers", "2", "--", "serve", "x")
    assert done.returncode == 2
    assert "Expected `-- train ...` after the options. Received: serve x" in done.stderr
    done = command("launch", "--", "train", "text-classifier")
    assert done.returncode == 2
    assert "Expected --out RUN in the command" in done.stderr


@pytest.mark.slow
def test_an_error_is_one_line_from_each_worker(tmp_path: Path) -> None:
    done = command("launch", "--workers", "2", "--", "train", "text-classifier", "--data", "none.csv", "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "worker-" in line and "none.csv" in line]
    assert len(lines) == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_lines_for_slurm_make_a_tf_config() -> None:
    page = (HERE.parent / "docs/distribute.md").read_text(encoding="utf-8")
    lines = page[page.index("  workers=$(echo") : page.index("  exec kerasbig")]
    environment = {"PATH": os.environ["PATH"], "KERASBIG_HOSTS": "n1,n2", "SLURM_PROCID": "1"}
    done = subprocess.run(["bash", "-c", lines + 'echo "$TF_CONFIG"'], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"cluster": {"worker": ["n1:12345", "n2:12345"]}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize("name", ["UnavailableError", "DeadlineExceededError", "AbortedError"])
def test_what_a_lost_worker_is_to_the_command_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from kerasbig.cli import main

    monkeypatch.setenv("TF_CONFIG", "{}")
    assert main._is_lost_worker(getattr(tf.errors, name)(None, None, "gone"))
    assert main._is_lost_worker(tf.errors.InternalError(None, None, "Collective ops is aborted"))
    assert not main._is_lost_worker(ValueError("gone"))
    monkeypatch.delenv("TF_CONFIG")
    assert not main._is_lost_worker(tf.errors.UnavailableError(None, None, "gone"))
