"""Does an exported file answer what the model answers? Asked in a fresh process, before the file counts as done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kerasbig.export.predictors import checked_texts

FRESH_CHECK = Path(__file__).with_name("fresh_check.py")
TIMEOUT_SECONDS = 900

# Largest difference of a logit, for logits up to 1 in size and in proportion beyond: rounding grows with what is rounded.
# Measured on a fine-tuned 6-layer, 384-wide BERT with logits up to 2.5: SavedModel 0, HDF5 2e-6, LiteRT 1e-7 (float32),
# 4e-5 (float16) and, with int8 weights, a median of 0.013 and a maximum of 0.21 over 600 reviews (99.5 % of the labels equal).
TOLERANCES = {
    "saved_model": 1e-4,
    "hdf5": 1e-5,
    "litert": 1e-3,
    "litert-float16": 1e-2,
    "litert-dynamic": 0.2,
    "litert-int8": 0.2,
    "onnx": 1e-4,
}

# In proportion to "litert-int8": a tenth of the largest logit for half of the texts, two fifths for each. Of few texts the largest
# difference says little: five such BERTs differed by a median of 0.01 to 0.03 of the largest logit, and by 0.09 to 0.30 at most,
# over 150 to 300 reviews each (ranges calibrated alone and trained for int8, on processors with VNNI and without).
INT8_MEDIAN, INT8_LARGEST = 0.5, 2.0

# Where tokenizers and graphs go wrong: nothing at all, cut texts, accents, other scripts, control characters, long words.
DEFAULT_EXAMPLES = (
    "",
    " \t\n",
    "A moving, quietly funny film with a superb cast.",
    "It isn't bad; it's dreadful!!! (2 out of 10, don't waste $15.50)",
    "one of those films that never ends , " * 80,
    "Ça déçoit : un café très naïf, señor Müller… Größe, STRASSE, İstanbul, Ångström",
    "这部电影非常感人，演员也很出色。",
    "日本語のテキスト、カタカナ、한국어 문장, русский ТЕКСТ, ελληνικός, עברית, العربية, हिन्दी",
    "Loved it ❤️ 👍🏽 👨‍👩‍👧 #best-film_ever @someone http://example.org/?a=1&b=2",
    "control\x00char\x07acters\u200band\u00adsoft\ufeffhyphens\u2028in\u3000it",
    f"{'x' * 101} {'é' * 51} {'字' * 34} {'a' * 100}",
    "ﬁne ＡＢＣ １２３ ½ ™ ㎏ ﷺ e\u0301 A\u030a",
    "[CLS] [SEP] [PAD] [MASK] [UNK] ##ing",
)


class ExportError(RuntimeError):
    """An exported file that does not do what the model does, or could not be written. Nothing of it was kept."""


class Check(Protocol):
    """What an exported model is asked in a fresh process, and how its answers are judged."""

    @property
    def script(self) -> Path:
        """The script that asks, given the format, a job file and a result file."""

    def job(self) -> dict[str, Any]:
        """Returns what the script is given, beside the `path`, as JSON."""

    def measured(self, kind: str, answer: Mapping[str, Any], quantize: str | None) -> dict[str, Any]:
        """Returns the figures for the manifest, or raises an `ExportError`."""


def checked_examples(examples: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the texts that each exported file must answer as the model does; the built-in ones for None.

    Raises:
        ValueError: If they are no texts, or none at all.
    """
    texts = tuple(checked_texts(DEFAULT_EXAMPLES if examples is None else examples, "examples"))
    if not texts:
        raise ValueError("Expected examples to have at least one text. Received none: leave it out for the built-in ones.")
    return texts


@dataclass(frozen=True)
class Expected:
    """What a classifier answers in this process.

    Attributes:
        texts: The N texts asked.
        token_ids: The tokens of each text, padding left out.
        logits: float32 (N, C).
        class_names: None for regression.
    """

    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]
    logits: np.ndarray
    class_names: tuple[str, ...] | None
    script: Path = FRESH_CHECK

    def job(self) -> dict[str, Any]:
        """Returns the texts."""
        return {"texts": list(self.texts)}

    def measured(self, kind: str, answer: Mapping[str, Any], quantize: str | None) -> dict[str, Any]:
        """Compares by `compare`; of int8 products half of the texts more tightly, and each one less."""
        tolerance = tolerance_of(kind, quantize, self.logits)
        if (kind, quantize) != ("litert", "int8"):
            return compare(kind, answer, self, tolerance)
        return compare(kind, answer, self, INT8_LARGEST * tolerance, median_tolerance=INT8_MEDIAN * tolerance)


def run_checks(kinds: Mapping[str, Path], expected: Mapping[str, Check], *, quantize: str | None) -> dict[str, dict[str, Any]]:
    """Runs each exported format in a fresh process, all at once, and compares the answers.

    Args:
        kinds: Format to the folder it lies in.
        expected: Format to what the model answers, to the same texts.
        quantize: The LiteRT file's quantization, which sets its tolerance.

    Returns:
        Format to its figures, such as `{"max_abs_logit_difference": ..., "tolerance": ..., "examples": ...}`.

    Raises:
        ExportError: If a process fails or an answer differs by more than the tolerance.
    """
    with tempfile.TemporaryDirectory(prefix="kerasbig-check-") as scratch:
        answers = _answers(kinds, expected, Path(scratch))
    return {kind: expected[kind].measured(kind, answers[kind], quantize) for kind in kinds}


def tolerance_of(kind: str, quantize: str | None, logits: np.ndarray) -> float:
    """Returns the largest difference allowed between logits of this size."""
    key = f"{kind}-{quantize}" if kind == "litert" and quantize else kind
    return float(TOLERANCES[key] * max(1.0, float(np.abs(logits).max())))


def compare(
    kind: str, answer: Mapping[str, Any], expected: Expected, tolerance: float, *, median_tolerance: float | None = None
) -> dict[str, Any]:
    """Compares the answers of an exported file with the model's.

    Args:
        kind: The format, for messages.
        answer: What the fresh process wrote.
        expected: What the model answers.
        tolerance: Largest difference of a logit.
        median_tolerance: Largest median, over the texts, of each one's largest difference; not looked at if None.

    Raises:
        ExportError: If tokens, logits, labels or probabilities differ.
    """
    if "token_ids" in answer:
        compare_tokens(answer["token_ids"], expected.texts, expected.token_ids)
    logits = np.asarray(answer["logits"], "float32")
    if logits.shape != expected.logits.shape:
        raise ExportError(
            f"Expected the exported {kind} to return logits {expected.logits.shape}. Received: {logits.shape}. Nothing was written."
        )
    difference = np.abs(logits - expected.logits)
    largest = float(difference.max())
    # NaN is in no order: written as "not within".
    if not largest <= tolerance:
        worst = int(np.argmax(np.nan_to_num(difference.max(axis=1), nan=np.inf)))
        raise ExportError(
            f"Expected the exported {kind} to answer as the model does, within {tolerance:.3g}. "
            f"Received: logits that differ by {largest:.3g} for {shortened(expected.texts[worst])}. Nothing was written."
        )
    figures = {"max_abs_logit_difference": largest, "tolerance": tolerance, "examples": len(expected.texts)}
    if median_tolerance is not None:
        median = float(np.median(difference.max(axis=1)))
        if median > median_tolerance:
            raise ExportError(
                f"Expected the exported {kind} to answer half of the texts as the model does, within {median_tolerance:.3g}. "
                f"Received: logits that differ by {median:.3g} for the median of {len(expected.texts)} texts. Nothing was written."
            )
        figures |= {"median_abs_logit_difference": median, "median_tolerance": median_tolerance}
    _compare_answers(kind, answer, logits, expected.class_names)
    return figures


def compare_tokens(token_ids: Sequence[Sequence[int]], texts: Sequence[str], right: Sequence[Sequence[int]]) -> None:
    """Raises an `ExportError` if an exported tokenizer gives other tokens than the model's own."""
    for text, received, wanted in zip(texts, token_ids, right, strict=True):
        if list(received) != list(wanted):
            place = next((i for i, (a, b) in enumerate(zip(received, wanted, strict=False)) if a != b), min(len(received), len(wanted)))
            raise ExportError(
                f"Expected tokenizer.json to give the model's own token ids. Received: others from token {place} on for {shortened(text)}: "
                f"{list(received)[place : place + 4]} instead of {list(wanted)[place : place + 4]}. Nothing was written."
            )


def _compare_answers(kind: str, answer: Mapping[str, Any], logits: np.ndarray, class_names: tuple[str, ...] | None) -> None:
    """Checks what `serving_default` says against the file's own logits."""
    if kind != "saved_model":
        return
    if class_names is None:
        good = np.allclose(answer["value"], logits[:, 0], rtol=1e-5, atol=1e-5)
    else:
        best = logits.argmax(axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        good = (
            answer["label_id"] == best.tolist()
            and answer["label"] == [class_names[i] for i in best]
            and np.allclose(answer["probabilities"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
        )
    if not good:
        raise ExportError(
            "Expected the SavedModel's serving_default to follow from its logits. Received: other answers. Nothing was written."
        )


def _answers(kinds: Mapping[str, Path], expected: Mapping[str, Check], scratch: Path) -> dict[str, dict[str, Any]]:
    if not sys.executable:
        raise ExportError("Expected a Python executable to check the export with. Received: an embedded Python without sys.executable.")
    # CPU only: this process may hold the whole memory of the accelerator.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        for kind, path in kinds.items():
            job, result, log = (scratch / f"{kind}.{name}" for name in ("job", "result", "log"))
            job.write_text(json.dumps({"path": str(path.resolve()), **expected[kind].job()}), encoding="utf-8")
            # -P keeps the script's own folder off the path: it lies inside the package.
            command = [sys.executable, "-P", str(expected[kind].script), kind, str(job), str(result)]
            processes[kind] = start(command, log, environment)
        return {kind: _result(kind, process, scratch, deadline) for kind, process in processes.items()}
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a fresh process in the folder of its log."""
    with open(log, "wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, cwd=log.parent, env=environment)


def _result(kind: str, process: subprocess.Popen[bytes], scratch: Path, deadline: float) -> dict[str, Any]:
    try:
        status = process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"Expected the exported {kind} to answer within {TIMEOUT_SECONDS} s. It did not. Nothing was written.") from error
    if status != 0:
        lines = (scratch / f"{kind}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = f"signal {-status}" if status < 0 else (lines[-1].strip() if lines else f"exit status {status}")
        raise ExportError(f"Expected the exported {kind} to run in a fresh process. It failed: {reason}. Nothing was written.")
    answer: dict[str, Any] = json.loads((scratch / f"{kind}.result").read_text(encoding="utf-8"))
    return answer


def shortened(text: str) -> str:
    """Returns the beginning of a text, as messages show it.

    Example:
        >>> shortened("a film")
        "'a film'"
    """
    return repr(text if len(text) <= 60 else text[:60] + "…")
