"""The kernels of a Keras 3 model: finding them, naming them, and seeing each as an (in, out) matrix.

Everything that compresses weights starts here: what is a kernel, which ones are meant, and why the others are left alone.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

# What `layers=` takes: patterns of layer paths, or a function that says yes or no to a layer.
Layers = str | Sequence[str] | Callable[[keras.layers.Layer], bool]

_MATRIX_LAYERS = (keras.layers.Dense, keras.layers.EinsumDense)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_ON_REQUEST = (keras.layers.Embedding, *_CONVOLUTIONS)
_NO_KERNEL = "has no kernel"


@dataclass(frozen=True)
class Kernel:
    """One kernel of a model.

    Attributes:
        path: Path of its layer, such as `transformer_layer_0/feedforward_output_dense`.
        layer: The layer that owns it.
        variable: The variable itself, float32 under mixed precision.
        matrix_shape: (in, out), the kernel as a matrix; see `matrix_shape`.
    """

    path: str
    layer: keras.layers.Layer
    variable: keras.Variable
    matrix_shape: tuple[int, int]


@dataclass(frozen=True)
class LeftAlone:
    """A layer with weights that is not taken, and why.

    Attributes:
        path: Path of the layer.
        kind: Its class, such as `Embedding`.
        shape: Shape of its largest weight.
        reason: Why it is left alone, in words for a report.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    reason: str


def matrix_shape(layer: keras.layers.Layer) -> tuple[int, int]:
    """Returns a layer's kernel as (in, out): the contracted axes times the others.

    Dense (in, out) is itself; EinsumDense (hidden, heads, head) of a query is (hidden, heads * head) and
    (heads, head, hidden) of an attention output is (heads * head, hidden); a convolution is (window * channels in,
    channels out); an Embedding is (vocabulary, width).

    Args:
        layer: A built Dense, EinsumDense, Embedding, Conv1D, Conv2D or Conv3D.

    Returns:
        The two sizes; reshaping the kernel to them moves no weight.

    Raises:
        ValueError: If the layer has no such kernel, or the contracted axes of an EinsumDense do not lead.

    Example:
        >>> import keras
        >>> query = keras.layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 8))
        >>> query.build((None, 5, 16))
        >>> matrix_shape(query)
        (16, 16)
    """
    shape = tuple(int(size) for size in kernel_variable(layer).shape)
    contracted = contracted_axes(layer)
    return math.prod(shape[:contracted]), math.prod(shape[contracted:])


def contracted_axes(layer: keras.layers.Layer) -> int:
    """Returns how many axes of a layer's kernel its inputs are multiplied with; they come first.

    Raises:
        ValueError: If they do not, which an EinsumDense allows.
    """
    contracted = len(kernel_variable(layer).shape) - 1
    if isinstance(layer, keras.layers.EinsumDense):
        inputs, output = layer.equation.replace(" ", "").split("->")
        axes = inputs.split(",")[1]
        contracted = sum(axis not in output for axis in axes)
        if contracted == 0 or any(axis in output for axis in axes[:contracted]):
            raise ValueError(
                f"Expected the contracted axes of an EinsumDense kernel to come first, so that it is an (in, out) matrix. "
                f"Received: equation={layer.equation!r} of {layer.path!r}. Leave this layer alone, or reorder its kernel's axes."
            )
    return contracted


def select_kernels(model: keras.Model, layers: Layers | None = None, *, required: bool = True) -> tuple[list[Kernel], list[LeftAlone]]:
    """Finds the kernels of a model, those of nested layers and of KerasHub's included.

    Args:
        model: A built Keras 3 model.
        layers: Which kernels to take. None takes every Dense and EinsumDense. A pattern, or several, of layer paths
            (`*` and `?` as in file names) takes exactly what it names, embeddings and convolutions too; a pattern that
            begins with `!` leaves out what it names. Or a function from a layer to True or False.
        required: Whether it is an error to take nothing.

    Returns:
        The kernels taken and the layers left alone, both in the order of `model.weights`.

    Raises:
        ValueError: If the model has no weights yet, a pattern names no layer, a layer that is named cannot be taken,
            or nothing is taken at all.

    Example:
        >>> import keras
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2, name="logits")]
        >>> taken, left = select_kernels(keras.Sequential(layers, name="net"), "!net/logits")
        >>> [kernel.path for kernel in taken], left[0].reason
        (['net/hidden'], "left out by layers='!net/logits'")
    """
    owners = weight_owners(model)
    if not owners:
        raise ValueError(f"Expected a built model. Received: {model.name!r}, which has no weights. Call it once, or give it an Input.")
    unwanted = _wish(layers, [layer.path for layer in owners])
    taken: list[Kernel] = []
    left: list[LeftAlone] = []
    for layer in owners:
        wish, obstacle = unwanted(layer), _obstacle(layer)
        if not wish and not obstacle:
            taken.append(Kernel(layer.path, layer, kernel_variable(layer), matrix_shape(layer)))
            continue
        if not wish and layer.path in _patterns(layers):
            raise ValueError(f"Expected layers to name kernels that can be taken. Received: {layer.path!r}: {obstacle}")
        shape = max((tuple(weight.shape) for weight in own_weights(layer)), key=math.prod)
        left.append(LeftAlone(layer.path, type(layer).__name__, shape, obstacle if obstacle == _NO_KERNEL else wish or obstacle))
    if required and not taken:
        reasons = "; ".join(sorted({f"{item.kind}: {item.reason}" for item in left}))
        raise ValueError(
            f"Expected at least one kernel to take. Received: {model.name!r} with layers={layers!r}, which leaves none ({reasons})."
        )
    return taken, left


def weight_owners(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns each layer that holds weights itself, once, in the order of `model.weights`.

    What clustering and quantization-aware training add to a layer is no layer of the model's.
    """
    order = {id(weight): index for index, weight in enumerate(model.weights)}
    # Keras offers no public walk over nested layers; a test fails when this one is renamed.
    layers = list(model._flatten_layers(include_self=False))
    added = {id(part) for layer in layers if hasattr(layer, "compression") for part in layer.compression._flatten_layers()}
    owners = [layer for layer in layers if id(layer) not in added and own_weights(layer)]
    return sorted(owners, key=lambda layer: min(order.get(id(weight), len(order)) for weight in own_weights(layer)))


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the weights that a layer holds itself, those of its sublayers left out."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def kernel_variable(layer: keras.layers.Layer) -> keras.Variable:
    """Returns the stored kernel: the public `kernel` is a sum when LoRA is on."""
    name = "_embeddings" if isinstance(layer, keras.layers.Embedding) else "_kernel"
    variable = getattr(layer, name, None)
    if not isinstance(layer, (*_MATRIX_LAYERS, *_ON_REQUEST)) or variable is None:
        raise ValueError(
            f"Expected a built Dense, EinsumDense, Embedding, Conv1D, Conv2D or Conv3D. Received: {type(layer).__name__} {layer.path!r}."
        )
    return variable


def _obstacle(layer: keras.layers.Layer) -> str:
    """Returns why a layer's kernel cannot be taken; empty if it can."""
    if not isinstance(layer, (*_MATRIX_LAYERS, *_ON_REQUEST)):
        return _NO_KERNEL
    if getattr(layer, "quantization_mode", None) is not None:
        return f"already quantized to {layer.quantization_mode}"
    if getattr(layer, "lora_enabled", False):
        return "has LoRA weights, which would fill the kernel's zeros again"
    try:
        matrix_shape(layer)
    except ValueError:
        return f"the contracted axes of its kernel do not come first in {layer.equation!r}"
    return ""


def _patterns(layers: Layers | None) -> list[str]:
    if layers is None or callable(layers):
        return []
    return [layers] if isinstance(layers, str) else list(layers)


def _wish(layers: Layers | None, paths: Sequence[str]) -> Callable[[keras.layers.Layer], str]:
    """Returns a function from a layer to why it is not wanted; empty if it is."""
    if layers is not None and callable(layers):
        return lambda layer: "" if layers(layer) else "not chosen by the function layers="
    patterns = _patterns(layers)
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern.removeprefix("!")):
            close = difflib.get_close_matches(pattern.removeprefix("!"), paths, n=1, cutoff=0.0)
            raise ValueError(
                f"Expected layers to name layers of the model. Received: {pattern!r}, which names none. Did you mean {close[0]!r}?"
            )
    takes = [pattern for pattern in patterns if not pattern.startswith("!")]
    leaves = [pattern for pattern in patterns if pattern.startswith("!")]

    def unwanted(layer: keras.layers.Layer) -> str:
        for pattern in leaves:
            if fnmatch.fnmatchcase(layer.path, pattern[1:]):
                return f"left out by layers={pattern!r}"
        if takes:
            return "" if any(fnmatch.fnmatchcase(layer.path, pattern) for pattern in takes) else "not named by layers="
        if isinstance(layer, _ON_REQUEST):
            return "left alone unless layers= names it"
        return ""

    return unwanted
