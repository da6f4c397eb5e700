"""A smaller student that learns from a larger teacher: Keras's own `Distiller`, and students cut from their teachers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import distillation


def distill(
    teacher: keras.Model,
    student: keras.Model,
    *,
    temperature: float = 2.0,
    student_loss_weight: float = 0.5,
    features: Mapping[str, str] | None = None,
) -> distillation.Distiller:
    """Joins a teacher and a student into a model that trains the student.

    Compile and fit what is returned as any model, with the student's loss and on the student's batches; the student is
    `.student`. The student may be as large as the teacher: pruning, clustering and quantization-aware training lose
    less when the model that they start from teaches them.

    The teacher is frozen (`trainable` becomes False) and its weights do not change.

    Args:
        teacher: A built model that returns logits (B, C), or values (B, 1).
        student: A built model with the same inputs and outputs.
        temperature: Both models' logits are divided by it before they are compared, by Kullback-Leibler divergence;
            above 0. Values of a regression are compared by their squared difference instead; a detector's classes by quality
            focal loss and its boxes, where the teacher sees an object, by their squared difference: without a temperature.
        student_loss_weight: Weight of the labels' loss, from 0 to 1; the teacher has the rest.
        features: Names of teacher layers and of the student layers that shall give the same output, such as
            `{"transformer_layer_5": "transformer_layer_2"}`, compared by squared difference.

    Returns:
        A `keras.distillation.Distiller` with the student's `class_names`.

    Raises:
        ValueError: If the classes, the tokenizers or the outputs of the two differ, or an argument is out of range.

    Example:
        >>> import keras, numpy as np
        >>> def build(width):
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width), keras.layers.Dense(3)])
        >>> distiller = distill(build(16), build(2))
        >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = distiller.fit(np.ones((8, 4)), np.zeros(8), verbose=0)
        >>> distiller.student.count_params()
        19

    Source: Hinton et al., 2015, arXiv:1503.02531.
    """
    _check(teacher, student, temperature, student_loss_weight)
    losses: list[Any]
    if isinstance(student, keras_hub.models.ObjectDetector):
        losses = [_Objects()]
    elif student.output_shape[-1] == 1:
        losses = [_Values()]
    else:
        # By its name, "kl_divergence", Keras takes the divergence of the logits themselves, which is none.
        losses = [_Logits(temperature=temperature, loss=keras.losses.KLDivergence())]
    for teacher_layer, student_layer in (features or {}).items():
        losses.append(distillation.FeatureDistillation(loss="mse", teacher_layer_name=teacher_layer, student_layer_name=student_layer))
    kind = _BoxDistiller if hasattr(student, "joined_labels") else distillation.Distiller
    distiller = kind(teacher, student, losses, student_loss_weight=student_loss_weight)
    distiller.class_names = getattr(student, "class_names", None)
    return distiller


class _BoxDistiller(distillation.Distiller):
    """Keras's distiller for a student whose labels are a dict, which its loss takes joined."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        return super().compute_loss(x, self.student.joined_labels(y), y_pred, sample_weight, training)


class _Logits(distillation.LogitsDistillation):
    """Keras's loss on float32 logits: a softmax in bfloat16 knows three digits."""

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        return super().compute_loss(_float32(teacher_outputs), _float32(student_outputs), **kwargs)


class _Values(distillation.FeatureDistillation):
    """Squared difference of predicted values: one value has no softmax."""

    def __init__(self) -> None:
        super().__init__(loss="mse", teacher_layer_name=None, student_layer_name=None)

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        return super().compute_loss(_float32(teacher_outputs), _float32(student_outputs), **kwargs)


class _Objects(distillation.FeatureDistillation):
    """What a detector's teacher sees at each place: how likely each class is, and where the sides of its box are.

    Almost all places are background, so that a plain difference over all outputs would teach nothing else. The classes'
    targets are the teacher's probabilities, as those of the quality focal loss are the boxes' overlaps (Li et al., 2020,
    arXiv:2006.04388, equation 3); boxes count as much as the teacher believes in them.
    """

    def __init__(self) -> None:
        super().__init__(loss="mse", teacher_layer_name=None, student_layer_name=None)

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        taught, learnt = _float32(teacher_outputs), _float32(student_outputs)  # (B, N, C + 4)
        targets, logits = keras.ops.sigmoid(taught[..., :-4]), learnt[..., :-4]
        entropy = keras.ops.maximum(logits, 0) - logits * targets + keras.ops.softplus(-keras.ops.abs(logits))
        classes = keras.ops.sum(keras.ops.square(targets - keras.ops.sigmoid(logits)) * entropy)
        belief = keras.ops.max(targets, axis=-1)  # (B, N)
        sides = keras.ops.mean(keras.ops.square(taught[..., -4:] - learnt[..., -4:]), axis=-1)
        return (classes + keras.ops.sum(belief * sides)) / keras.ops.maximum(keras.ops.sum(belief), 1.0)


def _float32(outputs: Any) -> Any:
    return keras.ops.cast(outputs, "float32")


def smaller_student(teacher: keras.Model, *, num_layers: int | None = None, **sizes: int) -> keras.Model:
    """Builds a smaller model of the teacher's own kind, with the teacher's weights wherever they fit.

    Fewer layers of the same width are taken from the teacher, evenly spread with the first and the last among them: of
    12 layers 0, 2, 4, 7, 9 and 11, as DistilBERT has them (Sanh et al., 2019, arXiv:1910.01108); of 6 layers 0, 2 and 5.
    Weights of another width begin anew. Preprocessor, classes and precision are the teacher's.

    Args:
        teacher: A KerasHub task, such as `BertTextClassifier` or `ViTImageClassifier`, whose backbone has `num_layers`.
        num_layers: Layers of the student, fewer than the teacher's; by default half of them.
        **sizes: Other numbers of the backbone's configuration to change, such as `hidden_dim=128, num_heads=2,
            intermediate_dim=512`; `kerasbig.text.SIZES["tiny"]` is such a set.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError: If `teacher` is no KerasHub task with such a backbone.
        ValueError: If there is nothing smaller about the student, or a size is not one of the backbone's.

    Example:
        >>> import kerasbig as kb
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"], 60)
        >>> teacher = kb.text.bert_classifier(("bad", "good"), size="mini", vocabulary=vocabulary)
        >>> smaller_student(teacher, num_layers=2).backbone.num_layers
        2
    """
    backbone = getattr(teacher, "backbone", None)
    config = backbone.get_config() if backbone is not None else {}
    if "num_layers" not in config:
        raise TypeError(
            f"Expected a KerasHub task whose backbone has num_layers. Received: {type(teacher).__name__}. "
            "Build the student yourself and pass it to kerasbig.compress.distill."
        )
    layers = config["num_layers"]
    wanted = {"num_layers": max(1, layers // 2) if num_layers is None else num_layers, **sizes}
    unknown = sorted(set(wanted) - set(config))
    if unknown:
        raise ValueError(f"Expected sizes out of {', '.join(sorted(config))}. Received: {', '.join(unknown)}")
    if not 1 <= wanted["num_layers"] <= layers or all(wanted[name] >= config[name] for name in wanted):
        raise ValueError(
            f"Expected a student smaller than its teacher's {', '.join(f'{name}={config[name]}' for name in wanted)}. Received: "
            f"{', '.join(f'{name}={value}' for name, value in wanted.items())}"
        )
    student = _rebuilt(teacher, {**config, **wanted})
    _copy_weights(teacher, student, layers, wanted["num_layers"])
    student.class_names = getattr(teacher, "class_names", None)
    return student


def _rebuilt(teacher: keras.Model, config: dict[str, Any]) -> keras.Model:
    """Builds the teacher's class on a changed backbone."""
    task = {name: value for name, value in teacher.get_config().items() if name not in ("name", "trainable", "dtype")}
    task |= {"backbone": type(teacher.backbone).from_config(config), "preprocessor": teacher.preprocessor}
    return type(teacher)(**task)


def _copy_weights(teacher: keras.Model, student: keras.Model, layers: int, kept: int) -> None:
    """Copies what has the same place and shape; the student's layer i takes the place of the teacher's i-th kept one."""
    chosen = np.linspace(0, layers - 1, kept).round().astype(int)
    prefix, first = _layer_prefix(teacher, layers)
    numbered = re.compile(re.escape(prefix) + r"(\d+)(?=/)")

    def place(path: str, number: Callable[[int], int]) -> str:
        """Returns a weight's place in any model of this kind: Keras numbers the layers of a process, `encoder_1`."""
        marked = numbered.sub(lambda found: f"<{number(int(found.group(1)) - first)}>", path, count=1)
        return re.sub(r"_\d+(?=/)", "", marked)

    sources: dict[str, list[keras.Variable]] = defaultdict(list)
    for weight in teacher.weights:
        sources[place(weight.path, lambda index: index)].append(weight)
    seen: dict[str, int] = defaultdict(int)
    for weight in student.weights:
        key = place(weight.path, lambda index: int(chosen[index]))
        candidates, rank = sources[key], seen[key]
        seen[key] += 1
        if rank < len(candidates) and candidates[rank].shape == weight.shape:
            weight.assign(candidates[rank])


def _layer_prefix(model: keras.Model, layers: int) -> tuple[str, int]:
    """Returns how the model names its transformer layers, such as ("transformer_layer_", 0), and the first number."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for weight in model.weights:
        for part in weight.path.split("/")[:-1]:
            found = re.fullmatch(r"(.*?)(\d+)", part)
            if found:
                numbers[found.group(1)].add(int(found.group(2)))
    fitting = [prefix for prefix, seen in numbers.items() if len(seen) == layers and max(seen) - min(seen) == layers - 1]
    if not fitting:
        raise TypeError(f"Expected a backbone whose {layers} layers are numbered. Received: {type(model.backbone).__name__}.")
    return fitting[0], min(numbers[fitting[0]])


def _check(teacher: keras.Model, student: keras.Model, temperature: float, student_loss_weight: float) -> None:
    if not temperature > 0:
        raise ValueError(f"Expected a temperature above 0. Received: temperature={temperature}")
    if not 0 <= student_loss_weight <= 1:
        raise ValueError(f"Expected student_loss_weight from 0 to 1. Received: student_loss_weight={student_loss_weight}")
    names = [getattr(model, "class_names", None) for model in (teacher, student)]
    if names[0] != names[1]:
        raise ValueError(
            f"Expected the student to have the teacher's classes, in the same order: {names[0]}. Received: {names[1]}. "
            "Build it with the same classes."
        )
    rules = [_tokenizing(model) for model in (teacher, student)]
    if rules[0] != rules[1]:
        raise ValueError(
            "Expected the student to tokenize as the teacher does, since both get the same token ids. Received: another vocabulary, "
            "sequence_length or other rules. Build the student with kerasbig.compress.smaller_student, or with the teacher's preprocessor."
        )
    if teacher.output_shape[-1] != student.output_shape[-1]:
        raise ValueError(
            f"Expected the student to have the teacher's {teacher.output_shape[-1]} outputs. Received: {student.output_shape[-1]}."
        )


def _tokenizing(model: keras.Model) -> Any:
    """Returns all that decides the token ids of a text; None for other models."""
    preprocessor: Any = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        return None
    rules = [getattr(tokenizer, name, None) for name in ("lowercase", "strip_accents", "split_on_cjk")]
    return [list(tokenizer.get_vocabulary()), preprocessor.sequence_length, *rules]
