"""`kerasbig compress`: one step after the other, each a short fine-tune under the eyes of the model it starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from kerasbig import compress, distribute, export, remote
from kerasbig.arguments import require_size
from kerasbig.cli import fitting
from kerasbig.cli.options import FitOptions
from kerasbig.cli.output import note
from kerasbig.data import Splits
from kerasbig.files import replacing_file
from kerasbig.run import Run
from kerasbig.tasks import find_task

# Training batches that the ranges of activations are measured on before quantization-aware training.
CALIBRATION_BATCHES = 20


@dataclass(frozen=True)
class Recipe:
    """What to do to a Run's model; None and False leave a step out.

    Attributes:
        distill_to: A smaller student: a size such as "tiny", or a number of layers of the model's own.
        prune: Arguments of `kerasbig.compress.Pruning`: {"sparsity": 0.8} or {"m_by_n": [2, 4]}.
        cluster: Values a kernel.
        qat: Whether to train for int8.
        embeddings: Whether clustering takes the embedding tables too.
        teacher: Whether the Run's model teaches each step.
    """

    distill_to: str | None = None
    prune: Mapping[str, Any] | None = None
    cluster: int | None = None
    qat: bool = False
    embeddings: bool = False
    teacher: bool = True

    @property
    def steps(self) -> list[str]:
        """The steps in the order that keeps what came before."""
        wanted = {"distill": self.distill_to, "prune": self.prune, "cluster": self.cluster, "qat": self.qat}
        return [name for name, value in wanted.items() if value]


# Epochs, the share of the Run's own peak rate, and the weight of the labels beside a teacher, for each step; measured on the
# movie reviews. What is left of a kernel with more zeros than `_MANY_ZEROS` has to learn anew: at a small rate it ends near
# chance level. With fewer, the model is to stay what it was: labels that it has seen only make it sure of them.
_DEFAULTS = {
    "distill": (3, 1.0, 0.5),
    "prune": (3, 1.0, 0.1),
    "prune much": (4, 2.0, 0.5),
    "cluster": (1, 0.25, 0.5),
    "qat": (1, 0.125, 0.5),
}
_MANY_ZEROS = 0.6
# A detector of `digit_scenes`, trained and pruned for one epoch each, came to mAP .51 with 0.1 for the labels and .64 with 0.5; the
# other two have not been measured.
_LABELS_AT_LEAST = {"object-detector": 0.5, "text-generator": 0.5, "face-classifier": 0.5}


def compress_run(run: Run, recipe: Recipe, changes: Mapping[str, Any], out: str, *, overwrite: bool) -> Run:
    """Compresses a Run's model and writes another Run. A compression that is killed goes on with the step it was in.

    Args:
        run: The Run to start from.
        recipe: What to do.
        changes: Options that differ from the Run's: data, epochs and learning_rate of each step, precision, seed. None
            keeps the Run's, or the step's own default.
        out: The Run folder to write.
        overwrite: Whether an existing Run may be replaced.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    compression = {"from": run.location, **asdict(recipe)}
    options = replace(FitOptions(**run.options), **{"epochs": None, "learning_rate": None, **given}, compression=compression)
    splits = fitting.load_splits(options, run.classes)
    precision, folder = fitting.prepare(options, splits, 384, out, overwrite=overwrite)
    work = _Work(run, recipe, options, splits, precision["policy"], folder)
    done = [work.run_step(index) for index in range(len(recipe.steps))]
    last, ranges = done[-1]
    epochs = [row for step, _ in done for row in step.history]
    history = [{**row, "epoch": number} for number, row in enumerate(epochs, 1)]
    result = replace(last, history=history, seconds=sum(step.seconds for step, _ in done))
    layers = [dict(row) for row in compress.inspect(result.model).rows]
    extra = {"precision": precision, "layers": layers}
    saved = fitting.save(result, splits, options, out, overwrite=overwrite, extra=extra, ranges=ranges)
    remote.remove(folder)
    return saved


@dataclass(frozen=True)
class _Work:
    """One compression: where it starts, what it does, on which data."""

    run: Run
    recipe: Recipe
    options: FitOptions
    splits: Splits
    policy: str
    folder: Path

    def run_step(self, index: int) -> tuple[fitting.Fit, list[dict[str, Any]] | None]:
        """Does one step, or reads back what it left before a kill."""
        name = self.recipe.steps[index]
        note(f"Step {index + 1} of {len(self.recipe.steps)}: {name}")
        # Each step starts from a file and from the seed, so that one after a kill is the same as one without.
        keras.utils.set_random_seed(self.options.seed)
        # A compression is short, and several workers are for what is long.
        name_of_strategy = "one" if self.options.strategy == "multi_worker" else self.options.strategy
        with distribute.strategy(name_of_strategy).scope():
            teacher = self.run.load_model(self.policy) if self.recipe.teacher or name == "distill" else None
            model = self._model(index, teacher)
        weights, record = self._weights(index), self.folder / f"step-{index + 1}.json"
        if record.is_file():
            model.load_weights(weights)
            saved = json.loads(record.read_text(encoding="utf-8"))
            ranges = saved.pop("ranges")
            return fitting.Fit(export.float32_twin(model), **saved), ranges
        many = name == "prune" and (self.recipe.prune or {}).get("sparsity", 0.0) > _MANY_ZEROS
        epochs, share, labels = _DEFAULTS["prune much" if many else name]
        labels = max(labels, _LABELS_AT_LEAST.get(self.options.task, 0.0))
        rate = self.options.learning_rate or share * float(self.run.options["learning_rate"])
        options = replace(self.options, epochs=self.options.epochs or epochs, learning_rate=rate)
        callbacks = self._prepare(name, model)
        folder = self.folder / f"step-{index + 1}"
        result = fitting.fit(model, self.splits, options, folder, compression=callbacks, teacher=teacher, student_loss_weight=labels)
        ranges = compress.ranges(model) or None
        with replacing_file(weights) as temporary:
            result.model.save_weights(temporary)
        facts = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "model"}
        with replacing_file(record) as temporary:
            temporary.write_text(json.dumps({**facts, "ranges": ranges}), encoding="utf-8")
        remote.commit(self.folder)
        return result, ranges

    def _weights(self, index: int) -> Path:
        return self.folder / f"step-{index + 1}.weights.h5"

    def _model(self, index: int, teacher: keras.Model | None) -> keras.Model:
        """Builds the model that a step starts from, in the precision of the training."""
        if self.recipe.distill_to:
            sizes = find_task(self.options.task).sizes
            model = _student(self.run.load_model(self.policy) if teacher is None else teacher, self.recipe.distill_to, sizes)
        else:
            model = self.run.load_model(self.policy)
        if index:
            model.load_weights(self._weights(index - 1))
        return model

    def _prepare(self, name: str, model: keras.Model) -> list[keras.callbacks.Callback] | None:
        """Puts a step's compression on the model and returns its callbacks; None where nothing is compressed."""
        if name == "distill":
            return None
        if name == "prune":
            pruning = dict(self.recipe.prune or {})
            m_by_n = tuple(pruning["m_by_n"]) if "m_by_n" in pruning else None
            return [compress.Pruning(sparsity=pruning.get("sparsity"), m_by_n=m_by_n)]
        if name == "cluster":
            compress.cluster_weights(model, int(self.recipe.cluster or 0), layers=partial(_is_wanted, embeddings=self.recipe.embeddings))
        else:
            compress.quantize_model(model, calibration=calibration_batches(self.options.task, self.splits.train, model))
        return []


def calibration_batches(task: str, examples: Any, model: keras.Model) -> list[Any]:
    """Returns a few batches of training examples, the same ones each time."""
    row = find_task(task)
    batches = row.batches(examples, model, batch_size=min(32, row.evaluation_batch_size), seed=0)
    return [inputs for inputs, *_ in batches.take(CALIBRATION_BATCHES)]


def _student(teacher: keras.Model, size: str, sizes: Mapping[str, Mapping[str, int]]) -> keras.Model:
    if size.isdigit():
        return compress.smaller_student(teacher, num_layers=int(size))
    require_size(size, sizes)
    return compress.smaller_student(teacher, **sizes[size])


def _is_wanted(layer: keras.layers.Layer, *, embeddings: bool) -> bool:
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, *((keras.layers.Embedding,) if embeddings else ()))
    return isinstance(layer, kinds)
