"""Finding kernels: which are taken, which are left alone and why, and the matrix each one is."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest

from kerasbig.compress.kernels import matrix_shape, select_kernels


def built(layer: keras.layers.Layer, *shape: int | None) -> keras.layers.Layer:
    layer.build((None, *shape))
    return layer


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (built(keras.layers.Dense(5), 3), (3, 5)),
        (built(keras.layers.EinsumDense("abc,cde->abde", (None, 2, 8)), 7, 16), (16, 16)),
        (built(keras.layers.EinsumDense("abcd,cde->abe", (None, 12)), 7, 2, 8), (16, 12)),
        (built(keras.layers.EinsumDense("...x,xy->...y", (6,)), 3), (3, 6)),
        (built(keras.layers.Conv2D(4, (3, 5)), 8, 8, 2), (30, 4)),
        (built(keras.layers.Conv1D(4, 3), 8, 2), (6, 4)),
        (built(keras.layers.Embedding(9, 4), 8), (9, 4)),
    ],
)
def test_matrix_shape(layer: keras.layers.Layer, expected: tuple[int, int]) -> None:
    assert matrix_shape(layer) == expected


def test_the_matrix_of_an_einsum_is_the_one_it_multiplies_by() -> None:
    layer = built(keras.layers.EinsumDense("abcd,cde->abe", (None, 12)), 7, 2, 8)
    x = np.random.default_rng(0).normal(size=(3, 7, 2, 8)).astype("float32")
    matrix = keras.ops.convert_to_numpy(layer.kernel).reshape(matrix_shape(layer))
    np.testing.assert_allclose(layer(x), x.reshape(3, 7, 16) @ matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("equation", "output"), [("abc,dce->abde", (3, 2, 5)), ("abc,dbc->ad", (5,)), ("abc,bc->abc", (3, 4))])
def test_contracted_axes_that_do_not_lead_are_refused(equation: str, output: tuple[int, ...]) -> None:
    layer = built(keras.layers.EinsumDense(equation, output), 3, 4)
    with pytest.raises(ValueError, match=r"Expected the contracted axes .* to come first.*Received: equation="):
        matrix_shape(layer)


def test_a_layer_without_a_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a built Dense, EinsumDense"):
        matrix_shape(built(keras.layers.LayerNormalization(), 4))
    with pytest.raises(ValueError, match="Expected a built Dense, EinsumDense"):
        matrix_shape(keras.layers.Dense(3))


@pytest.fixture(scope="module")
def bert() -> keras.Model:
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=8
    )
    return keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)


def test_bert_kernels_are_all_found_in_the_order_of_the_weights(bert: keras.Model) -> None:
    taken, left = select_kernels(bert)
    assert len(taken) == 2 * 6 + 2
    assert taken[0].path == "transformer_layer_0/self_attention_layer/query"
    order = [id(weight) for weight in bert.weights]
    places = [order.index(id(kernel.variable)) for kernel in taken]
    assert places == sorted(places)
    covered = sum(np.prod(kernel.variable.shape) for kernel in taken)
    embeddings = sum(np.prod(item.shape) for item in left if "mbedding" in item.kind)
    rest = sum(np.prod(weight.shape) for weight in bert.weights if len(weight.shape) == 1 or weight.path.split("/")[-1] == "bias")
    assert covered + embeddings + rest == bert.count_params()


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ("*/feedforward*", 4),
        (["transformer_layer_0/*", "logits"], 7),
        ("!logits", 13),
        (["transformer_layer_*", "!*/feedforward*"], 8),
        ("token_embedding", 1),
        (lambda layer: isinstance(layer, keras.layers.EinsumDense), 8),
    ],
)
def test_patterns_take_and_leave(layers: object, count: int, bert: keras.Model) -> None:
    taken, left = select_kernels(bert, layers)
    assert len(taken) == count
    assert all(item.reason for item in left)
    owners = {id(weight) for layer in bert._flatten_layers() for weight in layer._trainable_variables}
    assert owners == {id(weight) for weight in bert.trainable_weights}  # the private walk of Keras still reaches every weight


def test_a_shared_layer_is_one_kernel() -> None:
    shared = keras.layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    taken, _ = select_kernels(keras.Model(inputs, shared(shared(inputs))))
    assert [kernel.path for kernel in taken] == ["shared"]


def test_lora_and_quantized_layers_are_left_alone_with_the_reason() -> None:
    plain, lora, quantized = (keras.layers.Dense(4, name=name) for name in ("plain", "lora", "quantized"))
    model = keras.Sequential([keras.Input((4,)), plain, lora, quantized], name="net")
    lora.enable_lora(2)
    quantized.quantize("int8")
    taken, left = select_kernels(model)
    assert [kernel.path for kernel in taken] == ["net/plain"]
    assert {item.path: item.reason for item in left} == {
        "net/lora": "has LoRA weights, which would fill the kernel's zeros again",
        "net/quantized": "already quantized to int8",
    }


def test_an_odd_einsum_is_left_alone_unless_it_is_named() -> None:
    odd = keras.layers.EinsumDense("abc,dce->abde", (3, 2, 5), name="odd")
    model = keras.Sequential([keras.Input((3, 4)), odd, keras.layers.Dense(2, name="last")], name="net")
    taken, left = select_kernels(model)
    assert [kernel.path for kernel in taken] == ["net/last"]
    assert "do not come first" in left[0].reason
    with pytest.raises(ValueError, match=r"Expected layers to name kernels that can be taken.*'net/odd'.*do not come first"):
        select_kernels(model, ["net/odd", "net/last"])


def test_a_pattern_that_names_nothing_suggests_a_layer(bert: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"Received: 'logit', which names none. Did you mean 'logits'\?"):
        select_kernels(bert, ["*/feedforward*", "logit"])


def test_nothing_taken_and_nothing_built_are_errors() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Expected at least one kernel to take.*not chosen by the function"):
        select_kernels(model, lambda layer: False)
    with pytest.raises(ValueError, match="Expected a built model"):
        select_kernels(keras.Sequential([keras.layers.Dense(2)]))
