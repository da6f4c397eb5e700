"""The command line: what it writes, what it refuses, and with which exit code."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import review_lines

from kerasbig.cli.main import main
from kerasbig.cli.options import FitOptions, options_from_config
from kerasbig.cli.xla import FUSION_FLAGS, allow_fusing
from kerasbig.tasks import find_task

TINY = ["--size", "tiny", "--vocabulary-size", "120", "--sequence-length", "24", "--epochs", "2", "--precision", "float32"]


def write_csv(path: Path, rows: list[tuple[str, str]], columns=("text", "label")) -> str:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def reviews_csv(tmp_path_factory) -> str:
    lines, targets = review_lines(120)
    rows = [(line, ("schlecht", "好")[target]) for line, target in zip(lines, targets, strict=True)]
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", rows)


@pytest.fixture(scope="module")
def run(reviews_csv, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    assert call("train", "text-classifier", "--data", reviews_csv, "--out", str(out), *TINY) == 0
    return out


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def failure(capsys, *arguments: str) -> tuple[int, str]:
    """Returns the exit code and the one line a command printed when it failed."""
    capsys.readouterr()
    code = call(*arguments)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return code, lines[0]


def output(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert call(*arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_holds_all_to_rebuild_it(run):
    files = {path.name for path in run.iterdir()}
    assert files == {"classes.json", "config.json", "history.csv", "metrics.json", "preset", "report.html"}
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["epochs"] == 2
    assert config["options"]["learning_rate"] == 1e-3
    assert config["precision"] == {"policy": "float32"}
    assert set(config["versions"]) >= {"python", "keras", "tensorflow", "kerasbig"}
    assert json.loads((run / "classes.json").read_text()) == ["schlecht", "好"]
    assert (run / "history.csv").read_text().splitlines()[0] == "epoch,accuracy,loss,val_accuracy,val_loss"
    assert not run.with_name("a.training").exists()


def test_evaluate_gives_the_metrics_of_the_run(run, reviews_csv, capsys):
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    result = output(capsys, "evaluate", str(run), "--json")
    assert {name: result[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)
    assert (result["split"], result["examples"]) == ("test", 24)
    assert set(result) == {"loss", "accuracy", "f1_macro", "examples", "examples_per_second", "split", "source"}
    whole = output(capsys, "evaluate", str(run), "--data", reviews_csv, "--split", "all", "--json")
    assert whole["examples"] == 120


def test_evaluate_on_other_data_takes_all_of_it(run, tmp_path, capsys):
    other = write_csv(tmp_path / "other.csv", [("a great film", "好"), ("dull", "schlecht"), ("weak", "schlecht")])
    assert output(capsys, "evaluate", str(run), "--data", other, "--json")["examples"] == 3


def test_predict(run, capsys, monkeypatch):
    answers = output(capsys, "predict", str(run), "a great film", "a dull film", "--json")["predictions"]
    assert len(answers) == 2
    for answer in answers:
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert list(answer["probabilities"]) == ["schlecht", "好"]
    monkeypatch.setattr("sys.stdin", iter(["a great film\n", "a dull film\n"]))
    assert output(capsys, "predict", str(run), "-", "--json")["predictions"] == answers


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_config_repeats_it(run, reviews_csv, tmp_path):
    again = tmp_path / "again"
    assert call("train", "text-classifier", "--config", str(run / "config.json"), "--out", str(again)) == 0
    assert (again / "history.csv").read_text() == (run / "history.csv").read_text()
    assert (again / "metrics.json").read_text() == (run / "metrics.json").read_text()


@pytest.mark.slow
def test_regression(tmp_path, capsys):
    lines, targets = review_lines(80)
    rows = [(line, f"{target * 2 - 1 + 0.1 * (i % 5)}") for i, (line, target) in enumerate(zip(lines, targets, strict=True))]
    data = write_csv(tmp_path / "ratings.csv", rows, ("text", "rating"))
    out = str(tmp_path / "run")
    assert call("train", "text-classifier", "--regression", "--data", data, "--out", out, *TINY) == 0
    result = output(capsys, "evaluate", out, "--json")
    assert {"loss", "rmse", "pearson"} <= set(result)
    assert result["rmse"] == pytest.approx(result["loss"] ** 0.5)
    answer = output(capsys, "predict", out, "a great film", "--json")["predictions"][0]
    assert isinstance(answer["value"], float)


def test_tables_name_the_files(run, capsys):
    capsys.readouterr()
    assert call("evaluate", str(run)) == 0
    assert "accuracy" in capsys.readouterr().out
    assert call("predict", str(run), "a great film") == 0
    assert "a great film" in capsys.readouterr().out


def test_check_and_samples(capsys):
    result = output(capsys, "check", "--json")
    assert result["ok"]
    assert result["packages"]["keras"] >= "3.15.1"
    assert result["extras_missing"] == []
    names = {sample["name"] for sample in output(capsys, "samples", "--json")["samples"]}
    assert {"movie_reviews", "minilm-l6", "digits", "digit_scenes"} <= names


def test_check_passes_without_extras_and_says_how_to_get_them(capsys, monkeypatch):
    from kerasbig.cli import check as module

    installed = module._version
    monkeypatch.setattr(module, "_version", lambda name: None if name in ("mtcnn", "fastapi") else installed(name))
    result = output(capsys, "check", "--json")
    assert (result["ok"], result["extras_missing"]) == (True, ["faces", "serve"])
    assert "serving (REST and gRPC)" not in result["checks"]
    assert call("check") == 0
    assert "Run: pip install 'kerasbig[faces]'" in capsys.readouterr().out
    monkeypatch.setattr(module, "_version", lambda name: None if name == "h5py" else installed(name))
    assert call("check", "--json") == 1
    assert "missing" in capsys.readouterr().out


USAGE = [
    (("trian",), "Received: 'trian'. Did you mean 'train'?"),
    (("train", "text-clasifier", "--data", "a.csv", "--out", "x"), "Did you mean 'text-classifier'?"),
    (("train", "text-classifier", "--dta", "a.csv", "--out", "x"), "--data"),
    (("train", "text-classifier", "--data", "a.csv"), "--out"),
    (("train", "text-classifier", "--out", "x"), "Expected --data with a file, a folder or a sample's name"),
    (("report", "--out", "x"), "RUN|BUNDLE"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_wrong_usage_exits_with_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line = failure(capsys, *arguments)
    assert code == 2
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_bad_data_exits_with_1_and_writes_nothing(reviews_csv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = Path(reviews_csv).read_text(encoding="utf-8").splitlines()
    cases = {
        "missing.csv": (None, "missing.csv"),
        "empty_text.csv": ("\n".join([*lines, ",好"]), "empty"),
        "ragged.csv": ("\n".join([*lines, "a,b,c"]), "122"),
        "one_class.csv": ("text,label\na,b\nc,b\nd,b\n", "class"),
        "small.csv": ("text,label\n" + "a film,b\n" * 9 + "c film,d\n", "d"),
        "numbers.csv": ("text,label\n1,a\n2,b\n", "number"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        code, line = failure(capsys, "train", "text-classifier", "--data", name, "--out", "run", *TINY)
        assert code == 1, name
        assert message in line, line
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    code, line = failure(capsys, "train", "text-classifier", "--data", "latin.csv", "--out", "run", *TINY)
    assert "--encoding" in line or "encoding" in line
    code, line = failure(capsys, "train", "text-classifier", "--data", reviews_csv, "--text", "txt", "--out", "run", *TINY)
    assert (code, "text" in line) == (1, True)
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--epochs", "0"], "epochs of at least 1. Received: epochs=0"),
        (["--learning-rate", "-1"], "positive learning_rate"),
        (["--warmup", "1"], "warmup from 0 to below 1"),
        (["--weight-decay", "-1"], "weight_decay of at least 0"),
        (["--precision", "float8"], "precision to be one of auto, float32, mixed_bfloat16"),
        (["--strategy", "mirored"], "Expected a strategy out of auto, one"),
        (["--preset", "minilm-l6"], "Expected a preset or a size"),
        (["--size", "huge"], "Expected size to be one of"),
    ],
)
def test_bad_options_exit_with_1(changes, message, reviews_csv, tmp_path, capsys):
    out = tmp_path / "run"
    code, line = failure(capsys, "train", "text-classifier", "--data", reviews_csv, "--out", str(out), *TINY, *changes)
    assert code == 1
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_kept(run, reviews_csv, capsys):
    before = (run / "config.json").read_bytes()
    code, line = failure(capsys, "train", "text-classifier", "--data", reviews_csv, "--out", str(run), *TINY)
    assert (code, "--overwrite" in line) == (1, True)
    assert (run / "config.json").read_bytes() == before


def test_predict_and_evaluate_refuse(run, tmp_path, capsys):
    assert failure(capsys, "predict", str(run), " ")[1].startswith("error: Expected a text in each INPUT. Received 1 empty")
    assert "there is none" in failure(capsys, "predict", str(tmp_path / "nothing"), "a")[1]
    unseen = write_csv(tmp_path / "unseen.csv", [("a film", "好"), ("a film", "mittel")])
    code, line = failure(capsys, "evaluate", str(run), "--data", unseen)
    assert (code, "mittel" in line) == (1, True)
    (tmp_path / "broken").mkdir()
    assert "to hold config.json" in failure(capsys, "evaluate", str(tmp_path / "broken"))[1]


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_run(run, reviews_csv, tmp_path, capsys, monkeypatch):
    from kerasbig.cli import fitting

    out = tmp_path / "run"
    assert call("train", "text-classifier", "--data", reviews_csv, "--out", str(out), *TINY) == 0
    before = (out / "metrics.json").read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitting.report, "write", full)
    code, line = failure(capsys, "train", "text-classifier", "--data", reviews_csv, "--out", str(out), "--overwrite", *TINY)
    assert (code, line) == (1, "error: No space left on device")
    assert (out / "metrics.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "run.training"}


def test_config_errors(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="to be JSON"):
        options_from_config(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"epoch": 3}')
    with pytest.raises(ValueError, match=r"Expected options out of .*Received: epoch"):
        options_from_config(str(tmp_path / "a.json"))


def test_defaults_depend_on_the_start():
    def resolved(steps: int, task: str = "text-classifier", **given: Any) -> FitOptions:
        row = find_task(task)
        return FitOptions(task, "a.csv", **given).with_defaults(row.defaults).resolved(steps, row.steps)

    assert (resolved(313).size, resolved(313).epochs, resolved(4).epochs) == ("mini", 10, 50)
    pretrained = resolved(4, preset="minilm-l6")
    assert (pretrained.size, pretrained.epochs, pretrained.learning_rate) == (None, 2, 8e-5)
    assert resolved(4, epochs=7).epochs == 7
    images = resolved(4, "image-classifier", preset="a")
    assert (images.size, images.stem, images.augment, images.patience) == (None, None, "light", 15)
    assert (resolved(40, "image-classifier").epochs, resolved(4, "image-classifier").stem) == (50, True)


def test_an_unforeseen_error_is_one_line_and_debug_shows_more(capsys, monkeypatch):
    def broken():
        raise KeyError("surprise")

    monkeypatch.setattr("kerasbig.data.samples", broken, raising=False)
    code, line = failure(capsys, "samples")
    assert (code, "surprise" in line, "--debug" in line) == (1, True, True)
    assert call("samples", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_task_names_of_the_command_line_are_the_table_s():
    from kerasbig.cli.train import TASK_NAMES
    from kerasbig.tasks import TASKS

    assert tuple(TASKS) == TASK_NAMES


@pytest.mark.parametrize("chosen", [None, "0"])
def test_training_keeps_tensorflows_memory_unless_told_not_to(chosen: str | None, monkeypatch: pytest.MonkeyPatch, run_python) -> None:
    for name in ("TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB"):
        monkeypatch.delenv(name, raising=False)
    # Where the CPU has AVX-512 VNNI or AMX, oneDNN has an allocator with statistics too: without it only the one chosen here has them.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    if chosen:
        monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", chosen)
    code = """
import os
from kerasbig.cli import quiet
quiet.keep_memory()
quiet.load_tensorflow()
import tensorflow as tf
one = tf.ones((1000, 1000))
try:
    print(tf.config.experimental.get_memory_info("CPU:0")["current"], os.environ["TF_CPU_BFC_MEM_LIMIT_IN_MB"])
except ValueError as error:
    print(error)
"""
    said = run_python(code)
    if chosen:
        assert "Allocator stats not available" in said
        return
    current, limit = map(int, said.split())
    assert current >= 4e6
    memory = next(line for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if line.startswith("MemTotal"))
    assert limit == int(memory.split()[1]) // 1024


@pytest.mark.parametrize("command", [["train", "text-classifier", "--data", "none.csv"], ["compress", "none", "--prune", "0.5"]])
def test_the_training_commands_keep_memory(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB", "TF_XLA_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path / "run")])
    assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "1"
    assert os.environ.get("TF_XLA_FLAGS") == (FUSION_FLAGS if command[0] == "train" else None)


def test_flags_of_xla_that_were_set_before_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_min_cluster_size=8")
    allow_fusing()
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_min_cluster_size=8"
