"""Magnitude pruning while `fit` runs: TF-MOT's schedules and mask update on the kernels of a Keras 3 model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasbig.compress._tfmot import MatrixPruning, PolynomialDecay
from kerasbig.compress.kernels import Kernel, Layers, LeftAlone, select_kernels
from kerasbig.compress.reports import Report
from kerasbig.compress.rewiring import compression_of

# A schedule as TF-MOT has it: from the step to (update the masks now?, sparsity).
Schedule = Callable[[Any], tuple[Any, Any]]

# How many mask updates the ramp of `sparsity=` is cut into.
RAMP_UPDATES = 20


class Pruning(keras.callbacks.Callback):
    """Sets the smallest weights of a model to zero while it trains, and keeps them there.

    After each step the kernels hold exact zeros; the model's structure, files and speed stay as they were, and a saved
    model loads without kerasbig. Masks follow TF-MOT step by step. Steps count from 1 at the first step of epoch 0 of
    this `fit`; a `fit` that goes on with `initial_epoch` goes on counting, and what is zero then is the mask.

    Give exactly one of `schedule`, `sparsity` and `m_by_n`.

    Args:
        schedule: A `kb.compress.ConstantSparsity` or `kb.compress.PolynomialDecay` (TF-MOT's own, with its arguments),
            or any callable from a step to (update the masks now?, sparsity).
        sparsity: Fraction of zeros to reach, between 0 and 1: a cubic ramp over the first half of the steps of `fit`
            (Zhu and Gupta, 2017, arXiv:1710.01878), the second half to recover. `fit` must know its number of steps.
        block_size: (height, width) of blocks in the (in, out) matrix of a kernel that become zero together.
        block_pooling: "AVG" or "MAX", how a block's magnitudes become one.
        m_by_n: (m, n) for m zeros in each n weights that follow each other along the input axis, such as (2, 4), set
            at the first step.
        layers: Which layers; None for every Dense and EinsumDense. A path pattern or several, "!" before one to leave
            it out, or a function from a layer to True or False; see `kerasbig.compress.kernels.select_kernels`.

    Raises:
        ValueError: For an argument out of range, and in `fit`: if no kernel is left to prune or one is being clustered, an
            input axis does not divide into groups of n, `sparsity` is given but the number of steps is not known, or
            several replicas run several steps in one execution.
        RuntimeError: In `fit`, on another Keras backend than TensorFlow.

    Example:
        >>> import keras, numpy as np
        >>> import kerasbig as kb
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> pruning = kb.compress.Pruning(sparsity=0.5)
        >>> history = model.fit(np.eye(8), np.ones((8, 1)), batch_size=1, epochs=2, verbose=0, callbacks=[pruning])
        >>> [row["sparsity"] for row in pruning.report.rows], history.history["sparsity"][-1]
        ([0.5, 0.5], 0.5)

    Source: TensorFlow Model Optimization, `sparsity/keras/pruning_impl.py`.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        sparsity: float | None = None,
        block_size: tuple[int, int] = (1, 1),
        block_pooling: str = "AVG",
        m_by_n: tuple[int, int] | None = None,
        layers: Layers | None = None,
    ):
        super().__init__()
        _check_arguments(schedule, sparsity, block_size, block_pooling, m_by_n)
        self.schedule, self.sparsity, self.m_by_n = schedule, sparsity, m_by_n
        self.block_size, self.block_pooling, self.layers = (block_size[0], block_size[1]), block_pooling, layers
        # Plain numbers with public names: `kb.distribute.Resume(callbacks=[pruning])` keeps them over a kill.
        self.first_step: int | None = None
        self.initial_sparsity: float | None = None
        self._kernels: list[Kernel] = []
        self._left: list[LeftAlone] = []
        self._masks: _Masks | None = None
        self._epoch = 0
        self._started = False

    @property
    def report(self) -> Report:
        """A row for each layer with weights: its share of zeros now, or why it was left alone."""
        if not self._kernels:
            raise RuntimeError("Expected Pruning to have run in model.fit(..., callbacks=[pruning]). Its report was asked for before.")
        rows = [
            _row(kernel.path, type(kernel.layer).__name__, kernel.variable.shape, sparsity=_sparsity([kernel])) for kernel in self._kernels
        ]
        rows += [_row(item.path, item.kind, item.shape, reason=item.reason) for item in self._left]
        return Report("Pruning", tuple(rows))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the kernels and makes their masks."""
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"Expected Keras on TensorFlow, which TF-MOT's pruning is written for. Received: backend={keras.backend.backend()!r}. "
                "Set KERAS_BACKEND=tensorflow for this step; the pruned weights load on any backend."
            )
        if self.sparsity is not None and self.params.get("steps") is None:
            raise ValueError(
                f"Expected fit to know its number of steps, to lay the ramp of sparsity={self.sparsity} over. Received: a dataset of "
                "unknown length. Pass steps_per_epoch to fit, or a schedule such as kb.compress.PolynomialDecay(...) to Pruning."
            )
        # Under distillation the student is what is pruned; the optimizer and the steps are the distiller's.
        pruned = self.model.student if isinstance(self.model, keras.distillation.Distiller) else self.model
        taken, left = select_kernels(pruned, self.layers)
        compressions = [(kernel.path, compression_of(kernel.layer)) for kernel in taken]
        clustered = [path for path, compression in compressions if compression is not None and compression.clusters is not None]
        if clustered:
            raise ValueError(
                f"Expected kernels that are not being clustered. Received: {clustered[0]!r}, which is. Prune first, then cluster: "
                "zeros stay zero."
            )
        self._check_groups(taken)
        self._kernels = [kernel for kernel in taken if self._has_blocks(kernel)]
        reason = f"has fewer than two {self.block_size[0]}x{self.block_size[1]} blocks along an axis"
        small = [kernel for kernel in taken if not self._has_blocks(kernel)]
        self._left = left + [LeftAlone(k.path, type(k.layer).__name__, tuple(k.variable.shape), reason) for k in small]
        if not self._kernels:
            raise ValueError(
                f"Expected a kernel with two blocks or more along each axis. Received: block_size={self.block_size}. Use smaller blocks."
            )
        self.first_step = self.initial_sparsity = None
        self._started = False
        self._masks = _Masks(self.model, self._kernels, self.block_size, self.block_pooling, self.m_by_n)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers the epoch, which tells a `fit` that goes on from a new one."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the masks, once all callbacks have restored what they restore."""
        if self._started:
            return
        self._started = True
        masks = self._running()
        if self.first_step is None:
            self.first_step = masks.updates() - (self._epoch * (self.params.get("steps") or 0) + batch) // masks.accumulation
        fresh = masks.updates() == self.first_step
        if self.initial_sparsity is None:
            self.initial_sparsity = min(_sparsity(self._kernels), self.sparsity or 0.0) if fresh else 0.0
        self._warn_of_a_late_end(masks.accumulation)
        masks.start(self.first_step, self._resolved_schedule(masks.accumulation))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Updates the masks when they are due and sets the masked weights to zero."""
        self._running().after_batch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the share of zeros over all pruned kernels as `sparsity`."""
        if logs is not None:
            logs["sparsity"] = _sparsity(self._kernels)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves a plain model behind."""
        self._running().finish()
        self._masks = None

    def _warn_of_a_late_end(self, accumulation: int) -> None:
        end = getattr(self.schedule, "end_step", -1)
        if self.schedule is None or self.params.get("steps") is None or end < 0:
            return
        last = self.params["steps"] * self.params["epochs"] // accumulation
        if end > last:
            # As in TF-MOT the masks are updated once more after the last step.
            reached = float(self.schedule(tf.constant(last + 1, tf.int32))[1])
            warnings.warn(
                f"Expected the pruning schedule to end within the {last} steps of this fit. Received: end_step={end}. "
                f"The sparsity will reach {reached:.1%}; end the schedule earlier, or train longer.",
                stacklevel=2,
            )

    def _running(self) -> _Masks:
        if self._masks is None:
            raise RuntimeError("Expected Pruning to be called by model.fit, which begins with on_train_begin. Pass it in callbacks=[...].")
        return self._masks

    def _check_groups(self, taken: Sequence[Kernel]) -> None:
        if self.m_by_n is None:
            return
        for kernel in taken:
            if kernel.matrix_shape[0] % self.m_by_n[1]:
                raise ValueError(
                    f"Expected an input axis that divides into groups of {self.m_by_n[1]}, for m_by_n={self.m_by_n}. Received: "
                    f"{kernel.path!r} with {kernel.matrix_shape[0]} inputs. Leave it out with layers={'!' + kernel.path!r}."
                )

    def _has_blocks(self, kernel: Kernel) -> bool:
        """Whether TF-MOT can pool the kernel: it squeezes axes of one block away and then fails."""
        blocks = [math.ceil(size / block) for size, block in zip(kernel.matrix_shape, self.block_size, strict=True)]
        return self.block_size == (1, 1) or min(blocks) > 1

    def _resolved_schedule(self, accumulation: int) -> Schedule:
        if self.sparsity is None:
            return self.schedule or _never
        half = max(1, self.params["steps"] * self.params["epochs"] // accumulation // 2)
        frequency = max(1, half // RAMP_UPDATES)
        # The last update must fall on the ramp's end, or the target would be missed.
        end = half // frequency * frequency
        return PolynomialDecay(self.initial_sparsity, self.sparsity, begin_step=0, end_step=end, frequency=frequency)


class _Masks:
    """The masks of one `fit`, their step, and the two ways to apply them.

    One step an execution: between the steps, so that the train graph stays as it is. Several steps an execution: as
    constraints in the graph, since nothing else runs between those steps. Both see what TF-MOT sees: the masked
    weights with one more gradient step on them.
    """

    def __init__(
        self, model: keras.Model, kernels: Sequence[Kernel], block_size: tuple[int, int], block_pooling: str, m_by_n: tuple[int, int] | None
    ):
        self.model, self.kernels = model, kernels
        self.optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self.accumulation = int(self.optimizer.gradient_accumulation_steps or 1)
        self.in_graph = model.steps_per_execution > 1
        if self.in_graph and model.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                f"Expected steps_per_execution=1 to prune on several replicas. Received: steps_per_execution={model.steps_per_execution}. "
                "Compile the model with 1."
            )
        self.schedule: Schedule = _never
        self.first = self.now = 0  # the two variables below as numbers, for what runs outside the graph
        with model.distribute_strategy.scope():
            self.step = tf.Variable(0, dtype=tf.int32, trainable=False, name="pruning_step")
            self.first_step = tf.Variable(0, dtype=tf.int32, trainable=False, name="pruning_first_step")
            self.prunings = [
                MatrixPruning(
                    kernel.variable.value,
                    kernel.matrix_shape,
                    step=lambda: tf.convert_to_tensor(self.step),
                    schedule=lambda step: self.schedule(step),
                    block_size=block_size,
                    block_pooling=block_pooling,
                    m_by_n=m_by_n,
                )
                for kernel in kernels
            ]
        self._apply = tf.function(self._apply_all, autograph=False)
        if self.in_graph:
            for kernel, pruning in zip(kernels, self.prunings, strict=True):
                kernel.variable.constraint = _MaskConstraint(self, pruning, kernel.variable.constraint)
            model.make_train_function(force=True)  # an earlier fit may have traced it without the constraints

    def updates(self) -> int:
        """Returns how often the optimizer has updated the weights."""
        return int(keras.ops.convert_to_numpy(self.optimizer.iterations))

    def start(self, first_step: int, schedule: Schedule) -> None:
        """Takes the zeros as masks and runs the step that TF-MOT runs before the first update of the weights."""
        self.schedule, self.first = schedule, first_step
        self.first_step.assign(first_step)
        for pruning in self.prunings:
            pruning.read_zeros()
        self.now = self.updates() - first_step + 1
        if self.now == 1:
            self._run()

    def after_batch(self) -> None:
        """Runs TF-MOT's next step. TF-MOT runs step i before the i-th update, which is after the one before it."""
        step = self.updates() - self.first + 1
        if not self.in_graph and step != self.now:  # not a part of an accumulated update, nor skipped by Resume
            self.now = step
            self._run()

    def finish(self) -> None:
        """Takes the masks off the model; averaged weights, which Keras puts in at the end, are masked once more."""
        for pruning in self.prunings:
            # A product with the mask would leave -0.0 too, which takes the runs of zeros apart that gzip lives on.
            pruning.variable.assign(tf.where(pruning.mask > 0, pruning.variable, tf.zeros_like(pruning.variable)))
        if self.in_graph:
            for kernel in self.kernels:
                kernel.variable.constraint = kernel.variable.constraint.own
            self.model.train_function = None

    def in_graph_step(self) -> tf.Tensor:
        """Returns the step as a tensor inside the optimizer, which counts its update only afterwards."""
        done = (tf.cast(self.optimizer._iterations.value, tf.int32) + 1) // self.accumulation
        return done - self.first_step + 1

    def _run(self) -> None:
        self.step.assign(self.now)
        with self.model.distribute_strategy.scope():
            self._apply()

    def _apply_all(self) -> None:
        for pruning in self.prunings:
            pruning.conditional_mask_update()
            pruning.weight_mask_op()


class _MaskConstraint(keras.constraints.Constraint):
    """Masks a kernel inside the train graph, after the constraint it had before."""

    def __init__(self, masks: _Masks, pruning: MatrixPruning, own: Any):
        self.masks, self.pruning = masks, pruning
        self.own: Any = own.own if isinstance(own, _MaskConstraint) else own  # left by a fit that was interrupted

    def __call__(self, w: Any) -> Any:
        if self.own is not None:
            self.pruning.variable.assign(self.own(w))
        self.masks.step.assign(self.masks.in_graph_step())
        self.pruning.conditional_mask_update()
        return self.pruning.variable * self.pruning.mask


def _never(step: Any) -> tuple[Any, Any]:
    """A schedule for m:n, which has its own: TF-MOT sets those masks at step 1."""
    return tf.constant(False), tf.constant(0.0)


def _sparsity(kernels: Sequence[Kernel]) -> float:
    zeros = sum(int(tf.size(k.variable.value)) - int(tf.math.count_nonzero(k.variable.value)) for k in kernels)
    return zeros / sum(math.prod(kernel.variable.shape) for kernel in kernels)


def _row(path: str, kind: str, shape: Sequence[int], *, sparsity: float | None = None, reason: str = "") -> dict[str, Any]:
    return {"path": path, "kind": kind, "shape": tuple(shape), "done": not reason, "sparsity": sparsity, "reason": reason}


def _check_arguments(schedule: Any, sparsity: Any, block_size: Any, block_pooling: Any, m_by_n: Any) -> None:
    given = {"schedule": schedule, "sparsity": sparsity, "m_by_n": m_by_n}
    if sum(value is not None for value in given.values()) != 1:
        received = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(f"Expected exactly one of schedule, sparsity and m_by_n. Received: {received}")
    if schedule is not None and not callable(schedule):
        raise ValueError(
            f"Expected schedule to be kb.compress.ConstantSparsity(...), kb.compress.PolynomialDecay(...) or a callable. "
            f"Received: {schedule!r}. For a fraction of zeros write sparsity={schedule!r}."
        )
    if sparsity is not None and not (isinstance(sparsity, int | float) and 0 < sparsity < 1):
        raise ValueError(f"Expected sparsity as a fraction between 0 and 1, such as 0.8. Received: sparsity={sparsity!r}")
    if not _two_integers(block_size) or min(block_size) < 1:
        raise ValueError(f"Expected block_size as two integers of at least 1, such as (4, 1). Received: block_size={block_size!r}")
    if block_pooling not in ("AVG", "MAX"):
        raise ValueError(f"Expected block_pooling 'AVG' or 'MAX'. Received: block_pooling={block_pooling!r}")
    if m_by_n is not None and not (_two_integers(m_by_n) and 0 < m_by_n[0] < m_by_n[1]):
        raise ValueError(f"Expected m_by_n as (zeros, out of), such as (2, 4). Received: m_by_n={m_by_n!r}")
    if m_by_n is not None and tuple(block_size) != (1, 1):
        raise ValueError(f"Expected either m_by_n or block_size. Received: m_by_n={m_by_n!r}, block_size={block_size!r}")


def _two_integers(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(item) is int for item in value)
