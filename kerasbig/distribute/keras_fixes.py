"""Every patch of Keras, for the versions it was read in: what `fit` gets wrong on several replicas of TensorFlow.

`repaired` works inside a strategy's scope only. Models that are built there carry the mended methods with them, bound to
the model itself; Keras's own classes are as before when the scope ends, and other models never see a change. The
tests show each failure of stock Keras with `xfail(strict=True)`, so that a release that mends one is noticed.

Mended: gradients of lookups that all examples share (the positions of a ViT), which Adam squares replica by replica;
clipping, which must see the sum over all replicas; batches that split unevenly; `steps_per_execution`,
`gradient_accumulation_steps`, `ema_overwrite_frequency` and `jit_compile`, which need a graph without branches around
what replicas do together; convolutions of no rows at all, which oneDNN cannot differentiate; and everything that several
workers need at all.

Source: Keras 3.15, `src/backend/tensorflow/trainer.py`, `src/backend/tensorflow/optimizer.py`.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv
from keras.src.trainers.data_adapters import data_adapter_utils

from kerasbig.distribute.agreement import check_same_data
from kerasbig.distribute.optimizer_state import build_optimizer
from kerasbig.distribute.refusals import check_training

TESTED_KERAS = "3.15."

_Trainer = keras_trainer.TensorFlowTrainer
_CONVOLUTIONS = (BaseConv, BaseConvTranspose, BaseDepthwiseConv, BaseSeparableConv)
# Rows of the batch that this replica trains on; each replica is traced in a thread of its own.
_rows = threading.local()


@contextlib.contextmanager
def repaired(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Makes models that are built inside train rightly on several replicas.

    Args:
        strategy: The strategy whose scope is open.

    Raises:
        RuntimeError: If Keras is of another version than the patches.
    """
    if not keras.__version__.startswith(TESTED_KERAS):
        raise RuntimeError(
            f"Expected Keras {TESTED_KERAS}x, whose training on several replicas is mended here. Received: Keras {keras.__version__}. "
            f"pip install 'keras~={TESTED_KERAS}1', or train with kerasbig.distribute.strategy('one')."
        )
    stock_init, stock_make = _Trainer.__init__, _Trainer._make_function

    def init(self: Any) -> None:
        stock_init(self)
        for method in (_make_function, _maybe_symbolic_build, make_predict_function):
            vars(self)[method.__name__] = types.MethodType(method, self)

    def refuse(self: Any, step_function: Any) -> Any:
        if self._distribute_strategy is None and tf.distribute.has_strategy():
            raise ValueError(
                f"Expected a model that was built inside this strategy's scope. Received: {self.name!r}, built outside of it, "
                f"whose weights are on one device only. Build and compile it inside `with strategy.scope():`."
            )
        return stock_make(self, step_function)

    _Trainer.__init__, _Trainer._make_function = init, refuse
    try:
        yield
    finally:
        _Trainer.__init__, _Trainer._make_function = stock_init, stock_make


def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
    """Builds what is not built yet from the shapes of the data: Keras averages a batch over the replicas to get them."""
    if iterator is not None:
        dataset = iterator.data_adapter.get_tf_dataset()
        check_same_data(self, dataset, iterator.num_batches)
        data_batch = dataset.element_spec
    with self.distribute_strategy.scope():
        self._symbolic_build(data_batch=data_batch)


def _make_function(self: Any, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns what runs the next steps: fetches their batches first, so that the graph holds no branch."""
    training = step_function == self.train_step
    _never_call_without_rows(self)
    if training:
        check_training(self)
        build_optimizer(self)
        _mend_optimizer(self.optimizer)
    # XLA takes the computation, not what replicas do together, so the step is compiled from within.
    step = _compiled_train_step(self) if training and self.jit_compile else step_function
    strategy = self.distribute_strategy

    def replica_step(data: Any) -> Any:
        data = keras.tree.map_structure(_of_any_size, data)
        _rows.count = _number_of_rows(data)
        return step(data)

    def run(batches: Sequence[Any], phases: Sequence[tuple[bool, bool]]) -> Any:
        outputs = None
        for data, phase in zip(batches, phases, strict=True):
            if training:
                self.optimizer.replicas_phase = phase
            outputs = strategy.run(replica_step, args=(data,))
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), outputs)

    traced = tf.function(run, reduce_retracing=True, autograph=False)
    traced_for = set()

    def function(iterator: Any) -> Any:
        batches: list[Any] = []
        for _ in range(self.steps_per_execution):
            try:
                batches.append(next(iterator))
            except (StopIteration, tf.errors.OutOfRangeError):
                if not batches:
                    raise StopIteration from None
                break
        phases = _phases(self.optimizer, len(batches)) if training else ((True, False),) * len(batches)
        if self.run_eagerly:
            return run(batches, phases)
        if phases not in traced_for:
            # For any number of rows: traced for the first batch's, it would be traced again for a last batch of fewer.
            traced.get_concrete_function((iterator.element_spec,) * len(batches), phases)
            traced_for.add(phases)
        return traced(tuple(batches), phases)

    return function


def make_predict_function(self: Any, force: bool = False) -> None:
    """Makes Keras's own, for a model that is never called on no rows, traced for any number of rows."""
    if self.predict_function is not None and not force:
        return
    _never_call_without_rows(self)
    type(self).make_predict_function(self, force)
    stock = self.predict_function
    if self.run_eagerly:
        return
    traced_for = set()

    def function(batches: Sequence[Any]) -> Any:
        if len(batches) not in traced_for:
            stock.get_concrete_function([keras.tree.map_structure(_spec_of_any_rows, batch) for batch in batches])
            traced_for.add(len(batches))
        return stock(batches)

    self.predict_function = function


def _spec_of_any_rows(item: Any) -> tf.TypeSpec:
    """Returns what a value of a batch and one of twice its rows have in common."""
    twice = tf.nest.map_structure(lambda tensor: tf.concat([tensor, tensor], 0), item, expand_composites=True)
    return tf.type_spec_from_value(item).most_specific_common_supertype([tf.type_spec_from_value(twice)])


def _never_call_without_rows(model: Any) -> None:
    # Only where it is needed: with it, two runs differ in the last digit.
    if any(isinstance(layer, _CONVOLUTIONS) for layer in model._flatten_layers()):
        vars(model)["call"] = types.MethodType(_call_with_a_row, model)


def _call_with_a_row(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls the model on one row of zeros where its replica has none, and returns none of it."""
    call = type(self).call.__get__(self)
    if not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context():
        return call(inputs, *args, **kwargs)
    rows = _number_of_rows(inputs)
    missing = tf.cast(tf.equal(rows, 0), tf.int32)
    filled = keras.tree.map_structure(lambda item: tf.pad(item, [[0, missing], *[[0, 0]] * (len(item.shape) - 1)]), inputs)
    return keras.tree.map_structure(lambda output: output[:rows], call(filled, *args, **kwargs))


def _of_any_size(item: Any) -> Any:
    """Makes the graph forget how many rows the first batch had, as Keras's own does: see `_as_on_one_device`."""
    if isinstance(item, tf.experimental.Optional):
        return None
    return tf.compat.v1.placeholder_with_default(item, [None, *item.shape[1:]]) if isinstance(item, tf.Tensor) else item


def _number_of_rows(data: Any) -> tf.Tensor:
    return tf.shape(next(item for item in tf.nest.flatten(data) if item is not None))[0]


def _compiled_train_step(model: Any) -> Callable[[Any], Any]:
    """Returns Keras's train step with the loss and its gradients in one XLA kernel."""

    @tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
    def gradients_of(trainable: Any, non_trainable: Any, x: Any, y: Any, sample_weight: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            y_pred, new_non_trainable, losses = model.stateless_call(trainable, non_trainable, x, training=True, return_losses=True)
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            for extra in losses:
                loss += keras.src.losses.loss.scale_loss_for_distribution(extra)
            scaled = model.optimizer.scale_loss(loss)
        return loss, y_pred, new_non_trainable, tape.gradient(scaled, trainable)

    def train_step(data: Any) -> Any:
        x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
        trainable = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        non_trainable = [tf.convert_to_tensor(variable.value) for variable in model.non_trainable_variables]
        loss, y_pred, new_non_trainable, gradients = gradients_of(trainable, non_trainable, x, y, sample_weight)
        for variable, value in zip(model.non_trainable_variables, new_non_trainable, strict=True):
            variable.assign(value)
        replicas = model.distribute_strategy.num_replicas_in_sync
        model._loss_tracker.update_state(loss * replicas, sample_weight=_number_of_rows(x))
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    return train_step


def _phases(optimizer: Any, steps: int) -> tuple[tuple[bool, bool], ...]:
    """Returns for each of the next steps whether weights are updated, and whether their averages replace them."""
    accumulation, overwrite = optimizer.gradient_accumulation_steps, optimizer.use_ema and optimizer.ema_overwrite_frequency
    if not accumulation and not overwrite:
        return ((True, False),) * steps
    done = int(keras.ops.convert_to_numpy(optimizer._iterations.value))
    numbers = range(done + 1, done + steps + 1)
    return tuple((not accumulation or number % accumulation == 0, bool(overwrite) and number % overwrite == 0) for number in numbers)


def _mend_optimizer(optimizer: Any) -> None:
    vars(optimizer)["_backend_apply_gradients"] = types.MethodType(_apply_gradients, optimizer)


def _apply_gradients(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
    """Sums the gradients over all replicas, each by its number of examples, before anything else is done with them."""
    context = tf.distribute.get_replica_context()
    update, overwrite = self.replicas_phase
    # The loss was divided by the number of replicas, as if each had as many rows; the right weight is its rows of all.
    rows = tf.cast(_rows.count, tf.float32)
    weighted = [_times(_as_on_one_device(g), rows * context.num_replicas_in_sync) for g in grads]
    *summed, total = context.all_reduce(tf.distribute.ReduceOp.SUM, [*weighted, rows])
    means = [_times(g, 1 / total) for g in summed]
    if self.gradient_accumulation_steps:
        accumulators = [self._accumulated_gradients[self._get_variable_index(v)] for v in trainable_variables]
        sums = [tf.convert_to_tensor(g) + accumulated for g, accumulated in zip(means, accumulators, strict=True)]
        means = [g / self.gradient_accumulation_steps for g in sums]
        _assign_all(self, accumulators, [tf.zeros_like(g) for g in sums] if update else sums)
    if update:
        means = self._clip_gradients(means)
        self._apply_weight_decay(trainable_variables)
        pairs = [(g, _tensorflow(v)) for g, v in zip(means, trainable_variables, strict=True)]
        _together(self._distributed_tf_update_step, self._distribution_strategy, pairs, self.learning_rate)
    if self.use_ema:
        self._update_model_variables_moving_average(self._trainable_variables)
        if overwrite:
            _together(
                lambda strategy: self._overwrite_model_variables_with_average_value(self._trainable_variables), self._distribution_strategy
            )


def _as_on_one_device(gradient: Any) -> Any:
    """Sums slices of a lookup that all examples share, such as of positions; the all-reduce would lay them side by side.

    Slices of a lookup for each example, such as of tokens, lie side by side on one device too. Their number depends on
    the batch, so it is not known before the graph runs.
    """
    if isinstance(gradient, tf.IndexedSlices) and gradient.indices.shape.is_fully_defined():
        return tf.convert_to_tensor(gradient)
    return gradient


def _times(gradient: Any, factor: tf.Tensor) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_times(gradient.values, factor), gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _assign_all(optimizer: Any, variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    def assign(strategy: Any, given: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(variables, given, strict=True):
            strategy.extended.update(_tensorflow(variable), lambda v, new: v.assign(new), args=(value,), group=False)

    _together(assign, optimizer._distribution_strategy, values)


def _together(function: Callable[..., Any], strategy: Any, *args: Any) -> None:
    """Runs a function once for all replicas, where the strategy has them meet."""
    tf.__internal__.distribute.interim.maybe_merge_call(function, strategy, *args)


def _tensorflow(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
