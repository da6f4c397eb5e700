"""Explanations of texts and images: what is planted is found, sums are what they promise, seeds repeat, errors name the fix."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from PIL import Image
from planted import PLANTED, WORDS, planted_bert, planted_cnn, planted_images, planted_texts

import kerasbig as kb
from kerasbig.explain.subjects import activation_of

METHODS = ("lime", "shap", "integrated_gradients", "attention")


def says(texts) -> np.ndarray:
    """A function in place of a model: 0.9 for "yes" with the planted word, 0.1 without."""
    return np.array([[0.1, 0.9] if PLANTED in text.split() else [0.9, 0.1] for text in texts])


@pytest.fixture(scope="module")
def bert():
    return planted_bert()


@pytest.fixture(scope="module")
def cnn():
    return planted_cnn()


@pytest.fixture(scope="module")
def images():
    return planted_images(15)


@pytest.fixture(scope="module")
def predictor(bert, tmp_path_factory):
    return kb.export.load(kb.export.litert(bert, tmp_path_factory.mktemp("bundles") / "planted"))


def explain(model, example, method, **options):
    return kb.explain.explain(model, example, method, progress=False, **options)


def found(explanation) -> bool:
    return explanation.top(most=1)[0][0] == PLANTED


@pytest.mark.parametrize("method", ["lime", "shap"])
def test_a_planted_word_of_a_function_ranks_first(method):
    ranked = [found(explain(says, text, method, class_names=("no", "yes"), target="yes")) for text in planted_texts(60)]
    assert np.mean(ranked) >= 0.99


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_word_of_a_bert_ranks_first(bert, method):
    subject = kb.explain.subject(bert)
    ranked = [found(explain(subject, text, method)) for text in planted_texts(10 if method == "lime" else 25, seed=1)]
    assert np.mean(ranked) >= 0.99


def overlap(explanation, corner) -> bool:
    """Whether the region with the largest attribution has a part of the planted patch."""
    row, column = corner
    return explanation.top("marked", 1)[0][0] in explanation.case.segments[row : row + 8, column : column + 8]


@pytest.mark.parametrize("method", ["lime", "shap", "integrated_gradients"])
def test_a_planted_patch_ranks_first(cnn, images, method):
    ranked = [overlap(explain(cnn, image, method), corner) for image, corner in zip(*images, strict=True)]
    assert np.mean(ranked) >= 0.99


def test_gradient_shap_finds_what_is_planted(bert, cnn, images):
    text = kb.explain.shap(bert, planted_texts(1)[0], algorithm="gradient", progress=False)
    assert found(text)
    plain = np.random.default_rng(2).uniform(90, 150, (3, 32, 32, 3))
    pixels = kb.explain.shap(cnn, images[0][0], algorithm="gradient", background=plain, progress=False)
    assert overlap(pixels, images[1][0])
    for explanation in (text, pixels):
        assert explanation.checks["sampling_gap"] <= 0.05
        assert_additive(explanation, 1e-3)


def assert_additive(explanation, tolerance):
    for name, values in explanation.attributions.items():
        assert values.sum() + explanation.base_value[name] == pytest.approx(explanation.scores[name], abs=tolerance)


def test_shap_is_additive(bert, cnn, images):
    for model, examples in ((bert, planted_texts(5)), (cnn, images[0][:5])):
        for example in examples:
            explanation = explain(model, example, "shap")
            assert_additive(explanation, 1e-3)
            assert explanation.checks["additivity_gap"] <= 1e-3


def test_shap_equals_shapley_values_of_an_additive_model():
    weights = {"ka": 0.5, "lo": -0.25, "mi": 2.0, "ne": 0.0}
    explanation = explain(lambda texts: np.array([[sum(weights[w] for w in text.split())] for text in texts]), "ka lo mi ne", "shap")
    np.testing.assert_allclose(explanation.attributions["value"], list(weights.values()), atol=1e-9)
    assert explanation.base_value == {"value": 0.0}


def test_integrated_gradients_are_complete(bert, cnn, images):
    for model, examples in ((bert, planted_texts(5)), (cnn, images[0][:5])):
        for example in examples:
            explanation = explain(model, example, "integrated_gradients")
            for name, values in explanation.attributions.items():
                change = explanation.scores[name] - explanation.base_value[name]
                assert abs(values.sum() - change) <= 0.01 * abs(change)


def smooth_model(width: int = 64) -> tuple[keras.Model, list[np.ndarray]]:
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(5, "tanh"), keras.layers.Dense(1)])
    return model, [np.asarray(weight, "float64") for weight in model.get_weights()]


def test_integrated_gradients_equal_numpy():
    model, (inner, bias, outer, _) = smooth_model()
    image = np.random.default_rng(0).normal(size=(8, 8, 1))
    explanation = kb.explain.integrated_gradients(model, image, steps=256, baseline=0.0, progress=False)
    way = image.ravel()
    total = np.zeros(64)
    for place in (np.arange(256) + 0.5) / 256:
        hidden = np.tanh(place * way @ inner + bias)
        total += inner @ ((1 - hidden**2) * outer[:, 0]) / 256
    np.testing.assert_allclose(explanation.attributions["value"].ravel(), total * way, rtol=1e-4, atol=1e-5)


def test_steps_are_doubled_until_the_gap_is_closed():
    model, _ = smooth_model()
    steep = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(30.0), model])
    image = np.random.default_rng(1).normal(size=(8, 8, 1))
    explanation = kb.explain.integrated_gradients(steep, image, steps=1, progress=False)
    assert explanation.checks["completeness_gap"] <= 0.01
    assert explanation.checks["steps"] > 1
    with pytest.raises(
        RuntimeError, match=r"sum to the change of the score within 1%\. Received: a gap of .* after 1 steps\. Load the model"
    ):
        kb.explain.integrated_gradients(steep, image, steps=1, most_steps=1, progress=False)


def test_rollout_equals_numpy():
    random = np.random.default_rng(0)
    layers = [random.dirichlet(np.ones(5), (3, 5)) for _ in range(4)]
    flow = np.eye(5)
    for layer in layers:
        mixed = layer.mean(axis=0) + np.eye(5)
        flow = np.array([[sum(mixed[i, k] / mixed[i].sum() * flow[k, j] for k in range(5)) for j in range(5)] for i in range(5)])
    np.testing.assert_allclose(kb.explain.rollout(layers), flow, rtol=1e-12)


def test_our_way_through_the_layers_is_keras_hub_s():
    """Fails when KerasHub changes the parts of its BERT or ViT."""
    import keras_hub

    from kerasbig.explain.bert_layers import answer, encode, encode_image

    keras.utils.set_random_seed(0)
    model = kb.text.bert_classifier(("a", "b"), size="tiny", vocabulary=kb.text.learn_wordpiece(WORDS * 2, 80), sequence_length=16)
    ids = np.random.default_rng(0).integers(5, 60, (2, 9)).astype("int32")
    mask = np.array([[1] * 9, [1] * 6 + [0] * 3], "int32")
    sequence, attentions = encode(model.backbone, model.backbone.token_embedding(ids), mask)
    wanted = model({"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": mask}, training=False)
    np.testing.assert_allclose(answer(model, sequence), wanted, atol=1e-5)
    assert [tuple(layer.shape) for layer in attentions] == [(2, 2, 9, 9)] * 2
    np.testing.assert_allclose(np.asarray(attentions[0]).sum(axis=-1), 1, atol=1e-5)

    vit = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, dropout_rate=0.1, attention_dropout=0.1
    )
    pixels = np.random.default_rng(1).random((2, 32, 32, 3)).astype("float32")
    features, attentions = encode_image(vit, pixels)
    np.testing.assert_allclose(features, vit(pixels, training=False), atol=1e-5)
    assert [tuple(layer.shape) for layer in attentions] == [(2, 2, 17, 17)] * 2


def test_attention_of_a_vit_is_a_map_of_its_patches():
    import keras_hub

    keras.utils.set_random_seed(0)
    vit = keras_hub.models.ViTBackbone(image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    model = keras_hub.models.ViTImageClassifier(vit, 3)
    image = np.random.default_rng(1).random((32, 32, 3))
    explanation = explain(model, image, "attention", class_names=("a", "b", "c"))
    values = explanation.attributions["attention"]
    assert values.sum() == pytest.approx(1)
    blocks = values.reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 64)
    np.testing.assert_allclose(blocks, blocks[:, :1].repeat(64, axis=1))
    for method in ("lime", "shap", "integrated_gradients"):
        assert set(explain(model, image, method).attributions) == {"0", "1", "2"}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same(bert, cnn, images, method):
    np.random.seed(11)
    before = np.random.get_state()[1].copy()
    for model, example in ((bert, planted_texts(1)[0]), (cnn, images[0][0])):
        if method == "attention" and model is cnn:
            continue
        one, two = (explain(model, example, method, seed=3) for _ in range(2))
        assert one.to_json() == two.to_json()
        assert one.to_html() == two.to_html()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_another_seed_gives_another_sample():
    one, two = (explain(says, " ".join(WORDS[:15]) + " " + PLANTED, "lime", seed=seed).attributions["1"] for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_equal_inputs_are_computed_once():
    asked = []

    def counting(texts):
        asked.extend(texts)
        return says(texts)

    explanation = explain(counting, f"{PLANTED} kabar lobar", "lime")
    assert len(asked) == len(set(asked)) <= 8
    assert explanation.checks["computed"] == len(asked)


def test_regression_and_its_value():
    model = planted_bert(classes=None)
    text = planted_texts(1)[0]
    for method in METHODS:
        explanation = explain(model, text, method)
        assert found(explanation)
        assert (explanation.label, list(explanation.scores)) == ("value", ["value"])
    with pytest.raises(ValueError, match=r"Expected no class: the model predicts one number\. Received: 'yes'"):
        explain(model, text, "shap", target="yes")


def test_a_bundle_is_explained_like_its_model(predictor, bert):
    text = planted_texts(1)[0]
    for method in ("lime", "shap"):
        ours, theirs = (explain(model, text, method) for model in (predictor, bert))
        assert found(ours)
        np.testing.assert_allclose(ours.units("yes"), theirs.units("yes"), atol=0.02)
    with pytest.raises(ValueError, match=r"Received: integrated_gradients, which needs a Keras model .* These fit: lime, shap\."):
        explain(predictor, text, "integrated_gradients")


def test_a_text_beyond_the_length_is_an_error_unless_it_may_be_cut(bert, predictor):
    long = " ".join([PLANTED, *WORDS[:30], *WORDS[:10]])
    for model in (bert, predictor):
        with pytest.raises(
            ValueError, match=r"Received 41 words, of which it reads the first (29|30), to '\w+'\. Shorten .* truncate=True"
        ):
            explain(model, long, "shap")
        explanation = explain(model, long, "shap", truncate=True)
        assert len(explanation.tokens) in (29, 30)
        assert found(explanation)


ERRORS = [
    ("", {}, ValueError, "Expected a text with at least one word. Received: an empty one"),
    (" \n", {}, ValueError, "Expected a text with at least one word"),
    ("\ud800 a", {}, ValueError, "a lone surrogate at character 0"),
    ("kabar", {}, ValueError, "two words for lime. Received one: 'kabar'. These fit one word: integrated_gradients, attention."),
    ("kabar lobar", {"target": "yess"}, ValueError, "Expected a class out of no, yes. Received: 'yess'. Did you mean 'yes'?"),
    ("kabar lobar", {"target": []}, ValueError, "Expected at least one class"),
    ("kabar lobar", {"method": "limes"}, ValueError, "integrated_gradients, attention. Received: 'limes'. Did you mean 'lime'?"),
    ("kabar lobar", {"method": "attention", "target": "yes"}, ValueError, "These know classes: lime, shap, integrated_gradients."),
    (np.zeros((32, 32, 3)), {}, TypeError, "Expected a text for this model. Received: ndarray."),
    ("kabar lobar", {"class_names": ("a", "b", "c")}, ValueError, "one class name for each of 2 outputs. Received: ['a', 'b', 'c']"),
    ("kabar lobar", {"class_names": ("a", "a")}, ValueError, "Expected class_names to be different names"),
]  # fmt: skip


@pytest.mark.parametrize(("example", "options", "error", "message"), ERRORS, ids=[message[:40] for *_, message in ERRORS])
def test_bad_texts(bert, example, options, error, message):
    with pytest.raises(error) as raised:
        explain(bert, example, **{"method": "lime", **options})
    assert message in str(raised.value)


def test_attention_of_a_vit_with_a_stem_and_no_class_token(tmp_path):
    keras.utils.set_random_seed(0)
    model = kb.vision.vit_classifier(("a", "b"), size="lite-2", image_shape=(16, 16, 3), stem=True, pooling="gap")
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), "uint8")
    Image.fromarray(image).save(tmp_path / "image.png")
    found = kb.explain.attention(model, str(tmp_path / "image.png"))
    np.testing.assert_array_equal(found.case.image, image)
    assert found.attributions["attention"].sum() == pytest.approx(1)
    assert found.checks["special_tokens"] == 0
    # By hand, from the layers themselves.
    vit = model.backbone.get_layer("vit")
    x = vit.get_layer("vit_patching_and_embedding")(model.backbone.get_layer("conv_stem")(model.preprocessor.image_converter(image[None])))
    flow = np.eye(16)
    for block in vit.get_layer("vit_encoder").encoder_layers:
        normed = block.layer_norm_1(x)
        scores = np.asarray(block.mha(normed, normed, return_attention_scores=True)[1])[0]
        flow = (0.5 * scores.mean(axis=0) + 0.5 * np.eye(16)) @ flow
        x = block(x)
    np.testing.assert_allclose(found.attributions["attention"][::4, ::4] * 16, flow.mean(axis=0).reshape(4, 4), atol=1e-5)


IMAGE_ERRORS = [
    (np.full((32, 32, 3), 7.0), {}, ValueError, "Received a blank one: every pixel is [7.0, 7.0, 7.0]."),
    (np.random.default_rng(0).random((16, 32, 3)), {}, ValueError, "of shape (32, 32, 3). Received: (16, 32, 3). Resize it"),
    (np.zeros((2, 32, 32, 3)), {}, ValueError, "Expected one image of shape (height, width, channels)"),
    (np.where(np.eye(32)[..., None] > 0, np.nan, np.ones((32, 32, 3))), {}, ValueError, "Expected finite pixels"),
    ("a text", {}, FileNotFoundError, "for this model, as an array (height, width, channels) or a file. Received: 'a text'."),
    (np.random.default_rng(0).random((32, 32, 3)), {"method": "attention"}, ValueError, "ViTBackbone. These fit: lime, shap, integrated"),
    (object(), {}, TypeError, "Expected an image: numbers of shape"),
]  # fmt: skip


@pytest.mark.parametrize(("example", "options", "error", "message"), IMAGE_ERRORS, ids=[message[:40] for *_, message in IMAGE_ERRORS])
def test_bad_images(cnn, example, options, error, message):
    with pytest.raises(error) as raised:
        explain(cnn, example, **{"method": "lime", **options})
    assert message in str(raised.value)


def test_bad_models_and_options(bert, cnn, images):
    model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300), sequence_length=16)
    with pytest.raises(TypeError, match=r"Received: \w+, a text generator, which has no probabilities of classes\. No method fits it\."):
        explain(model, "a film", "lime")
    with pytest.raises(TypeError, match=r"Expected a Keras model, what kb\.export\.load returns, or a function\. Received: str 'runs/a'"):
        explain("runs/a", "a film", "lime")
    with pytest.raises(TypeError, match=r"Expected a KerasHub text classifier, or a model from images"):
        explain(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), images[0][0], "lime")
    with pytest.raises(ValueError, match=r"Expected the model to return scores of shape \(1, classes\).* Received: \(1,\)"):
        explain(lambda texts: np.ones(len(texts)), "a film", "lime")
    with pytest.raises(ValueError, match=r"Expected finite scores"):
        explain(lambda texts: np.full((len(texts), 2), np.nan), "a film", "lime")
    text = planted_texts(1)[0]
    for call, message in (
        (lambda: kb.explain.lime(bert, text, samples=3), "samples of at least 10. Received: samples=3"),
        (lambda: kb.explain.shap(bert, text, evaluations=3), "evaluations of at least 10. Received: evaluations=3"),
        (lambda: kb.explain.shap(bert, text, algorithm="deep"), "partition or gradient. Received: algorithm='deep'"),
        (lambda: kb.explain.shap(says, text, algorithm="gradient"), "Expected a method that fits this model"),
        (lambda: kb.explain.shap(cnn, images[0][0], algorithm="gradient", background=np.ones((2, 8, 8, 3))), "background to be images"),
        (lambda: kb.explain.integrated_gradients(bert, text, steps=0), "steps from 1 to most_steps. Received: steps=0"),
        (lambda: kb.explain.lime(cnn, images[0][0], regions=1000), "regions from 8 to 250. Received: regions=1000"),
        (lambda: kb.explain.lime(cnn, images[0][0], baseline=np.ones((3, 3))), "Expected baseline to be an image of shape"),
        (lambda: kb.explain.subject(bert, activation="relu"), "activation to be softmax, sigmoid or none"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            call()
        assert message in str(raised.value)


def test_a_model_that_answers_by_chance_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(RuntimeError, match=r"Expected SHAP values that sum to the answer within 0\.001"):
        kb.explain.shap(planted_cnn_with(random), planted_images(1)[0][0], algorithm="gradient", progress=False)


def planted_cnn_with(random):
    """A differentiable function whose answers change from call to call."""
    import tensorflow as tf

    def noisy(images):
        mean = tf.reduce_mean(tf.cast(images, "float32"), axis=(1, 2, 3), keepdims=False)[:, None]
        return mean + float(random.normal())

    return kb.explain.subject(noisy, differentiable=True)


def test_a_missing_library_names_the_extra(monkeypatch):
    import sys

    for name in ("lime", "shap"):
        monkeypatch.setitem(sys.modules, name, None)
        if name == "lime":
            monkeypatch.setitem(sys.modules, "lime.lime_text", None)
        with pytest.raises(ImportError, match=rf"Expected the package '{name}', .* Run: pip install 'kerasbig\[explain\]'"):
            explain(says, "a film", name)


def test_activation_is_what_the_last_layer_lacks(cnn, bert):
    def ends_with(*layers):
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])

    dense = keras.layers.Dense
    assert activation_of(cnn, ("a", "b")) == activation_of(bert, ("a", "b")) == "softmax"
    assert activation_of(ends_with(dense(2, "softmax")), None) == "none"
    assert activation_of(ends_with(dense(2), keras.layers.Softmax()), None) == "none"
    assert activation_of(ends_with(dense(3, "sigmoid")), ("a", "b", "c")) == "none"
    assert activation_of(ends_with(dense(1)), None) == "none"
    assert activation_of(ends_with(dense(1)), ("a", "b")) == "sigmoid"
    image = np.random.default_rng(0).random((8, 8, 1))
    explanation = explain(ends_with(dense(1, "sigmoid")), image, "integrated_gradients", class_names=("no", "yes"))
    assert sum(explanation.scores.values()) == pytest.approx(1)


def test_images_of_whole_numbers_get_no_gradients():
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    model = keras.Model(inputs, planted_cnn()(keras.layers.Rescaling(1.0)(inputs)))
    images, corners = planted_images(2)
    assert all(
        overlap(explain(model, image, "shap", class_names=("plain", "marked")), corner)
        for image, corner in zip(images, corners, strict=True)
    )
    with pytest.raises(ValueError, match=r"These fit: lime, shap\."):
        explain(model, images[0], "integrated_gradients")


def test_an_explanation_shows_itself(bert, cnn, images):
    text = explain(bert, f'<b>"{PLANTED}"</b> 这部电影', "shap")
    html = text.to_html()
    assert "<b>zanzibar" not in html
    assert "&lt;" in html
    assert "script" not in html.replace("Noto", "")
    assert html.startswith("<!doctype html>")
    assert text._repr_html_() in html
    content = json.loads(text.to_json())
    assert content["tokens"][-4:] == ["这", "部", "电", "影"]
    assert content["label"] == "yes"
    assert [content["text"][start:stop] for start, stop in content["spans"]] == content["tokens"]
    assert {"attributions", "base_value", "method", "settings", "seed", "scores", "checks"} <= set(content)
    picture = explain(cnn, images[0][0], "lime")
    assert picture.to_html().count("data:image/png;base64,") == 3
    content = json.loads(picture.to_json())
    np.testing.assert_allclose(np.sum(content["attributions"]["marked"]), np.sum(content["regions"]["marked"]))
    assert len(text.plot().axes) == 2
    assert len(picture.plot().axes) == 3
    assert "zanzibar +0" in repr(text)
    with pytest.raises(ValueError, match=r"Expected an explained class: yes, no\. Received: 'maybe'"):
        text.units("maybe")


def test_words_and_characters():
    from kerasbig.explain.words import split

    assert split("A film, well-made — isn't it? 这部电影很好。").tokens == (
        "A", "film", ",", "well-made", "—", "isn't", "it", "?", "这", "部", "电", "影", "很", "好", "。",
    )  # fmt: skip
    assert split("good👍🏽👍🏽 とても 면접 кино").tokens == ("good", "👍🏽", "👍🏽", "とても", "면접", "кино")
    case = split("one two.three")
    assert case.keep(np.array([True, True, False, True])) == "one two three"
    assert case.keep(np.array([False, True, True, False])) == "two."
    assert case.keep(np.zeros(4, bool)) == ""


def test_pieces_belong_to_their_words():
    from kerasbig.explain.paths import pieces_of_units
    from kerasbig.explain.words import split

    model = planted_bert()
    # An emoji is no punctuation for BERT: "kabar👍" is one unknown token that two units share.
    owners = pieces_of_units(model, split("kabar👍 lobar 这!"))
    np.testing.assert_array_equal(
        owners, [[0, 0.5, 0, 0, 0, 0], [0, 0.5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    )


def test_superpixels_are_of_sensible_number():
    from kerasbig.explain.regions import cut, superpixels

    random = np.random.default_rng(0)
    for image in (random.random((96, 96, 3)), random.random((28, 28, 1)), np.pad(np.ones((8, 8, 3)), ((60, 60), (60, 60), (0, 0)))):
        for regions in (20, 50, 150):
            segments = superpixels(image, regions)
            assert 8 <= segments.max() + 1 <= 3 * regions
            assert np.array_equal(np.unique(segments), np.arange(segments.max() + 1))
    assert cut(random.random((20, 20)), 20).image.shape == (20, 20, 1)


def test_shap_s_small_loops_have_the_names_we_know():
    """Fails when `shap` renames what `uncompiled` runs in Python; explanations would take ten seconds more in each process."""
    import importlib

    from kerasbig.explain.uncompiled import COMPILED, uncompiled

    compiled = {(module, name): getattr(importlib.import_module(module), name) for module, names in COMPILED.items() for name in names}
    assert all(hasattr(function, "py_func") for function in compiled.values())
    with uncompiled():
        assert all(getattr(importlib.import_module(module), name) is function.py_func for (module, name), function in compiled.items())
    assert all(getattr(importlib.import_module(module), name) is function for (module, name), function in compiled.items())


def test_faithful_explanations_beat_random_orders(bert, cnn, images):
    for model, examples in ((bert, planted_texts(8)), (cnn, images[0][:8])):
        for method in ("shap", "integrated_gradients"):
            explanations = [explain(model, example, method) for example in examples]
            measured = kb.explain.faithfulness(model, explanations, progress=False)
            figures = measured.figures()
            assert figures["deletion_area"] < figures["random_deletion_area"]
            assert figures["insertion_area"] > figures["random_insertion_area"]
            assert max(figures["deletion_p"], figures["insertion_p"]) < 0.01
    assert json.loads(measured.to_json())["deletion_p"] == measured.deletion_p
    assert "data:image/png" in measured.to_html()
    assert len(measured.plot().axes) == 2


def test_faithfulness_by_hand():
    explanation = explain(says, f"kabar {PLANTED} lobar midus", "shap", class_names=("no", "yes"))
    measured = kb.explain.faithfulness(says, [explanation, explanation], class_names=("no", "yes"), steps=4, progress=False)
    np.testing.assert_allclose(measured.deletion, [0.9, 0.1, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(measured.insertion, [0.1, 0.9, 0.9, 0.9, 0.9])
    assert measured.deletion_areas == pytest.approx([0.2, 0.2])
    assert measured.insertion_areas == pytest.approx([0.8, 0.8])


def test_faithfulness_refuses():
    one = explain(says, f"kabar {PLANTED}", "shap")
    other = explain(says, f"kabar {PLANTED}", "lime")
    for explanations, options, message in (
        ([], {}, "at least one explanation"),
        ([one, other], {}, "Expected explanations by one method. Received: lime, shap"),
        ([one], {"steps": 0}, "steps of at least 1"),
        ([one], {"random_orders": 0}, "random_orders of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            kb.explain.faithfulness(says, explanations, progress=False, **options)


def test_overview_names_the_words_of_each_class(bert, cnn, images):
    found_words = kb.explain.overview([explain(bert, text, "shap") for text in planted_texts(6)])
    assert found_words.words["yes"][0][0].word == found_words.words["no"][1][0].word == PLANTED
    assert found_words.words["yes"][0][0].count == 6
    assert PLANTED in found_words.to_html()
    assert json.loads(found_words.to_json())["examples"] == 6
    maps = kb.explain.overview([explain(cnn, image, "integrated_gradients") for image in images[0][:3]])
    assert maps.maps["marked"].shape == (32, 32)
    assert "data:image/png" in maps.to_html()
    with pytest.raises(ValueError, match="at least one"):
        kb.explain.overview([])
    with pytest.raises(ValueError, match="by one method, of one kind"):
        kb.explain.overview([explain(says, "a film", "shap"), explain(says, "a film", "lime")])
