"""Faces: margins against the papers' formulas, embeddings, pairs and thresholds, the gallery, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from builders import Built, drawn_faces, face_classifier
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

import kerasbig as kb
from kerasbig.vision.gallery import PROBE_AGREEMENT
from kerasbig.vision.verification import MOST_PAIRS, measure_threshold

PEOPLE = ("Ada", "Emmy", "Sofia")


@pytest.fixture(scope="module")
def built() -> Built:
    """A classifier that has learnt four people."""
    made = face_classifier()
    made.model.compile(keras.optimizers.Adam(2e-3), made.loss, metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")])
    made.model.fit(made.batches, epochs=6, verbose=0)
    made.model.class_names = drawn_faces(4, 1, side=8).classes
    made.model.threshold = 0.5
    return made


@pytest.fixture(scope="module")
def photos() -> kb.data.Examples:
    return drawn_faces(4, 8, side=8)


def by_hand(cosines: np.ndarray, target: int, margin: float, scale: float, kind: str) -> float:
    """The papers' formulas, in double precision."""
    logits = scale * cosines.astype("float64")
    angle = math.acos(cosines[target])
    logits[target] = scale * (math.cos(angle + margin) if kind == "arcface" else cosines[target] - margin)
    if kind == "arcface" and angle + margin > math.pi:
        logits[target] = scale * (cosines[target] - margin * math.sin(margin))
    return float(np.log(np.exp(logits).sum()) - logits[target])


@pytest.mark.parametrize(("kind", "margin"), [("arcface", 0.5), ("arcface", 0.0), ("cosface", 0.35)])
@pytest.mark.parametrize("cosine", [0.8, 0.0, -0.5, -0.95])  # the last one's angle and 0.5 are beyond π
def test_the_losses_are_the_papers_formulas(kind: str, margin: float, cosine: float) -> None:
    loss = {"arcface": kb.vision.ArcFaceLoss, "cosface": kb.vision.CosFaceLoss}[kind](margin, 10)
    cosines = np.array([0.3, cosine, -0.2])
    expected = by_hand(cosines, 1, margin, 10, kind)
    assert float(loss(np.array([1]), (10 * cosines[None]).astype("float32"))) == pytest.approx(expected, rel=1e-5)
    assert float(loss(np.array([[0.0, 1.0, 0.0]]), (10 * cosines[None]).astype("float32"))) == pytest.approx(expected, rel=1e-5)


def test_shares_of_classes_have_their_share_of_the_margin() -> None:
    loss = kb.vision.CosFaceLoss(0.2, 10)
    found = float(loss(np.array([[0.75, 0.25]]), np.array([[6.0, 4.0]])))
    harder = np.array([6 - 0.75 * 2, 4 - 0.25 * 2])
    assert found == pytest.approx(np.log(np.exp(harder).sum()) - harder @ [0.75, 0.25], rel=1e-5)


def test_the_margin_falls_with_the_angle_and_its_slope_is_finite_everywhere() -> None:
    import tensorflow as tf

    loss = kb.vision.ArcFaceLoss(0.5, 64)
    cosines = tf.constant(np.linspace(-1, 1, 2001), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        counted = loss.with_margin(cosines)
    assert np.all(np.diff(counted.numpy()) > 0)
    assert np.isfinite(tape.gradient(counted, cosines).numpy()).all()
    assert np.all(counted.numpy() <= cosines.numpy())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_logits_are_scaled_cosines_in_float32(dtype: str) -> None:
    model = kb.vision.face_classifier(PEOPLE, size="lite-2", image_shape=(8, 8, 3), scale=20, dtype=dtype)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    embeddings = keras.Model(model.inputs, model.get_layer("embedding").output)(images).numpy()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    kernel = model.get_layer("predictions").kernel.numpy()
    logits = model(images)
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, 20 * embeddings @ (kernel / np.linalg.norm(kernel, axis=0)), atol=1e-4)


def test_a_mirrored_face_has_the_same_embedding(built: Built, photos: kb.data.Examples) -> None:
    embeddings = kb.vision.embed(built.model, photos.inputs)
    np.testing.assert_allclose(kb.vision.embed(built.model, photos.inputs[:, :, ::-1].copy()), embeddings, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_it_learns_and_softened_labels_train_too(built: Built, photos: kb.data.Examples) -> None:
    logits = kb.data.predict_logits(built.model, photos.inputs)
    assert np.mean(logits.argmax(axis=1) == photos.targets) >= 0.9
    twin = face_classifier().model
    twin.compile(keras.optimizers.SGD(0.01), kb.vision.CosFaceLoss(0.1, 16))
    mixed = kb.data.batches(photos, twin, batch_size=16, augment="medium")
    assert np.isfinite(twin.fit(mixed, epochs=1, verbose=0).history["loss"][0])


def test_saved_files_are_found_again(built: Built, photos: kb.data.Examples, tmp_path: Path) -> None:
    before = kb.vision.embed(built.model, photos.inputs)
    built.model.save(tmp_path / "a.keras")
    built.model.save_to_preset(str(tmp_path / "preset"))
    for same in (keras.saving.load_model(tmp_path / "a.keras"), keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))):
        assert (type(same).__name__, same.threshold, same.loss.margin) == ("FaceClassifier", 0.5, 0.2)
        np.testing.assert_array_equal(kb.vision.embed(same, photos.inputs), before)


def test_a_preset_brings_its_weights(tmp_path: Path) -> None:
    start = kb.vision.vit_classifier(("cat", "dog"), size="lite-2", image_shape=(16, 16, 3), stem=True, pooling="gap")
    start.save_to_preset(str(tmp_path / "start"))
    model = kb.vision.face_classifier(PEOPLE, preset=tmp_path / "start", image_shape=(24, 24, 3))
    assert type(model).__name__ == "ConvStemFaceClassifier"
    np.testing.assert_array_equal(model.backbone.weights[0], start.backbone.weights[0])
    model.save_to_preset(str(tmp_path / "faces"))
    assert type(keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "faces"))).__name__ == "ConvStemFaceClassifier"


@pytest.mark.parametrize("ties", [False, True])
def test_figures_are_those_of_scikit_learn(ties: bool) -> None:
    random = np.random.default_rng(0)
    same = random.random(800) < 0.2
    similarities = random.normal(0.4 * same, 0.3)
    similarities = similarities.round(1) if ties else similarities
    figures = kb.vision.measure_verification(similarities, same)
    false, true, _ = roc_curve(same, similarities, drop_intermediate=False)
    assert figures["auc"] == pytest.approx(roc_auc_score(same, similarities))
    assert figures["tar_at_far_1e-2"] == true[false <= 1e-2].max()
    points = np.linspace(0, 1, 200_001)
    # The middle of a flat stretch is as good as its ends; a fine grid meets the crossing.
    assert figures["eer"] == pytest.approx(points[np.argmin(abs(np.interp(points, false, true) - (1 - points)))], abs=1e-4)
    for mine, theirs in zip(kb.vision.roc(similarities, same)[:2], (false, true), strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_equal_error_rate_by_hand() -> None:
    # From 0.7 on, one of four of the different is accepted and one of four of the same refused.
    similarities, same = [0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3], [True, True, False, True, False, True, False, False]
    assert kb.vision.measure_verification(similarities, same) == {"auc": 13 / 16, "eer": 0.25, "tar_at_far_1e-2": 0.5}


def test_the_threshold_keeps_its_rate() -> None:
    random = np.random.default_rng(1)
    same = random.random(5000) < 0.1
    similarities = random.normal(0.5 * same, 0.2).round(2)
    for rate in (0.0, 1e-2, 0.2):
        threshold = kb.vision.choose_threshold(similarities, same, rate)
        assert np.mean(similarities[~same] >= threshold) <= rate
        lower = np.unique(similarities)[np.unique(similarities) < threshold].max()
        assert np.mean(similarities[~same] >= lower) > rate
    assert kb.vision.choose_threshold([0.5], [False]) > 0.5


def test_pairs_of_many_photographs_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_PAIRS >= 1_000_000
    monkeypatch.setattr("kerasbig.vision.verification.MOST_PAIRS", 500)
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(60, 4)).astype("float32")
    targets = np.repeat(np.arange(20), 3)
    pairs = kb.vision.Pairs.of(embeddings, targets)
    first, second = pairs.indices.T
    assert pairs.same.sum() == 20 * 3
    np.testing.assert_array_equal(pairs.same, targets[first] == targets[second])
    np.testing.assert_allclose(pairs.similarities, np.sum(embeddings[first] * embeddings[second], axis=1), rtol=1e-5)
    assert measure_threshold(pairs, 1e9) == {"far_at_threshold": 0.0, "tar_at_threshold": 0.0}


def test_verify_takes_paths_and_pixels(built: Built, photos: kb.data.Examples, tmp_path: Path) -> None:
    Image.fromarray(photos.inputs[0]).save(tmp_path / "a.png")
    same = kb.vision.verify(built.model, tmp_path / "a.png", photos.inputs[1])
    embeddings = kb.vision.embed(built.model, photos.inputs[:2])
    assert same.similarity == pytest.approx(float(embeddings[0] @ embeddings[1]), abs=1e-5)
    assert (same.same, same.threshold) == (same.similarity >= 0.5, 0.5)
    assert not kb.vision.verify(built.model, photos.inputs[0], photos.inputs[1], threshold=1).same


def test_the_gallery_finds_people(built: Built, photos: kb.data.Examples, tmp_path: Path) -> None:
    gallery = kb.vision.Gallery(built.model)
    assert gallery.names == photos.classes
    found = gallery.identify(photos.inputs, threshold=-1)
    kernel = built.model.get_layer("predictions").kernel.numpy()
    cosines = kb.vision.embed(built.model, photos.inputs) @ (kernel / np.linalg.norm(kernel, axis=0))
    assert [match.identity for (match,) in found] == [photos.classes[i] for i in cosines.argmax(axis=1)]
    assert [match.similarity for (match,) in found] == pytest.approx(cosines.max(axis=1), abs=1e-4)
    new = drawn_faces(1, 4, side=8, seed=9).inputs
    gallery.enrol("Émilie", new[:1])
    gallery.enrol("Émilie", new[1:2])
    best = gallery.identify(new[:1], top=9)[0]
    assert len(best) == 5
    assert best[0].nearest == "Émilie"
    assert [match.similarity for match in best] == sorted((match.similarity for match in best), reverse=True)
    assert all((match.identity is None) == (match.similarity < 0.5) for match in best)
    gallery.remove("person 2")
    gallery.save(tmp_path / "gallery.npz")
    again = kb.vision.Gallery.read(tmp_path / "gallery.npz", built.model)
    assert (again.names, again.enrolled) == (gallery.names, ("Émilie",))
    assert again.identify(new, top=9) == gallery.identify(new, top=9)
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.npz"]


def test_galleries_that_cannot_be_read(built: Built, tmp_path: Path) -> None:
    file = tmp_path / "gallery.npz"
    with pytest.raises(FileNotFoundError, match="Expected a gallery at"):
        kb.vision.Gallery.read(file, built.model)
    file.write_text("no archive")
    with pytest.raises(ValueError, match="Received: File is not a zip file"):
        kb.vision.Gallery.read(file, built.model)
    arrays: dict[str, Any] = {"names": np.array(["a"]), "sums": np.ones((1, 16), "float32"), "removed": np.array([], "U")}
    np.savez_compressed(file, **arrays, probe=np.ones(16, "float32"))
    with pytest.raises(ValueError, match="Received: its arrays are compressed"):
        kb.vision.Gallery.read(file, built.model)
    np.savez(file, **{**arrays, "names": np.array([{}])}, probe=np.ones(16, "float32"))
    with pytest.raises(ValueError, match="Received: Object arrays cannot be loaded"):
        kb.vision.Gallery.read(file, built.model)
    np.savez(file, **{**arrays, "names": np.array(["a", "b"])}, probe=np.ones(16, "float32"))
    with pytest.raises(ValueError, match="do not fit together"):
        kb.vision.Gallery.read(file, built.model)
    other = face_classifier().model
    other.class_names = (*PEOPLE, "Lise")
    kb.vision.Gallery(other).save(file)
    with pytest.raises(ValueError, match="faces another model embedded"):
        kb.vision.Gallery.read(file, built.model)
    assert PROBE_AGREEMENT < 1


def test_people_are_set_aside(tmp_path: Path) -> None:
    examples = drawn_faces(10, 4, side=8)
    for number, (image, target) in enumerate(zip(examples.inputs, examples.targets, strict=True)):
        path = tmp_path / examples.classes[target] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    splits = kb.data.load(tmp_path, "face-classifier", unseen=0.3)
    assert (len(splits.classes), len(splits.unseen.classes), len(splits.unseen), splits.unseen.role) == (7, 3, 12, "unseen")
    assert set(splits.classes) | set(splits.unseen.classes) == set(examples.classes)
    assert sum(len(getattr(splits, role)) for role in ("train", "validation", "test")) == 28
    assert kb.data.load(tmp_path, "face-classifier", unseen=0.3).unseen.classes == splits.unseen.classes
    with pytest.raises(ValueError, match=r"leaves at least two people .* unseen=0.1 of 10 people"):
        kb.data.load(tmp_path, "face-classifier", unseen=0.1)
    with pytest.raises(ValueError, match=r"unseen=0\.3, of another task"):
        kb.data.load(tmp_path, "image-classifier", unseen=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identities": "Ada"}, "identities to be a list of names"),
        ({"identities": ("Ada", "Ada")}, "two people with different names"),
        ({"head": "sphereface"}, "head to be one of arcface, cosface"),
        ({"pooling": "max"}, "pooling to be one of token, gap, flatten"),
        ({"margin": 2.0}, "margin from 0 to below"),
        ({"scale": 0.0}, "a scale above 0"),
        ({"embedding_dim": 1}, "embedding_dim of at least 2"),
        ({"size": None}, "exactly one of preset and size"),
    ],
)
def test_what_the_builder_refuses(options: dict[str, Any], message: str) -> None:
    chosen = {"identities": PEOPLE, "size": "lite-2", "image_shape": (8, 8, 3)} | options
    with pytest.raises(ValueError, match=message):
        kb.vision.face_classifier(chosen.pop("identities"), **chosen)


def test_what_else_is_refused(built: Built, photos: kb.data.Examples) -> None:
    classifier = kb.vision.vit_classifier(PEOPLE, size="lite-2", image_shape=(8, 8, 3))
    with pytest.raises(TypeError, match=r"Expected a model from kerasbig.vision.face_classifier. Received: ViTImageClassifier"):
        kb.vision.embed(classifier, photos.inputs)
    new = face_classifier().model
    with pytest.raises(ValueError, match=r"Received: model\.threshold=None"):
        kb.vision.verify(new, photos.inputs[0], photos.inputs[1])
    with pytest.raises(ValueError, match="threshold from -1 to 1"):
        kb.vision.verify(new, photos.inputs[0], photos.inputs[1], threshold=2)
    nameless = type(new).from_config(new.get_config())
    with pytest.raises(ValueError, match=r"Expected model.class_names"):
        kb.vision.Gallery(nameless)
    gallery = kb.vision.Gallery(built.model, trained=False)
    with pytest.raises(ValueError, match="Received: an empty one"):
        gallery.identify(photos.inputs)
    with pytest.raises(ValueError, match="Expected a name"):
        gallery.enrol(" ", photos.inputs)
    with pytest.raises(ValueError, match="at least one photograph to enrol 'Ada'"):
        gallery.enrol("Ada", [])
    with pytest.raises(KeyError, match="a name in the gallery"):
        gallery.remove("Ada")
    gallery.enrol("Ada", photos.inputs[:1])
    with pytest.raises(ValueError, match="top of at least 1"):
        gallery.identify(photos.inputs, top=0)
    with pytest.raises(ValueError, match="pairs of the same and of different people"):
        kb.vision.measure_verification([0.5], [True])
    with pytest.raises(ValueError, match="pairs of different people to choose"):
        kb.vision.choose_threshold([0.5], [True])
    with pytest.raises(ValueError, match="false_accept_rate from 0"):
        kb.vision.choose_threshold([0.5], [False], 1.0)
    with pytest.raises(ValueError, match="one finite similarity a pair"):
        kb.vision.roc([0.5, np.nan], [False, True])
