"""Models whose answer depends on one known word or one known patch, built by hand from weights."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np

WORDS = [f"{first}{second}" for first in ("ka", "lo", "mi", "ne", "ru") for second in ("bar", "den", "fol", "gus", "tim", "wex")]
PLANTED = "zanzibar"
# Zero mean, variance 1: layer normalization leaves them as they are. All words share one; the planted one has the other.
PLAIN, SPECIAL = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])


def planted_bert(classes=("no", "yes"), sequence_length: int = 32) -> keras_hub.models.BertTextClassifier:
    """A BERT of one layer that says "yes", or 1.0 as a regression, where its text holds the planted word."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, PLANTED, *"这部电影很好看!.,'"]
    tokenizer = keras_hub.tokenizers.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=sequence_length)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary), num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4, dropout=0.0,
        max_sequence_length=sequence_length,
    )  # fmt: skip
    outputs = 1 if classes is None else len(classes)
    model = keras_hub.models.BertTextClassifier(backbone, outputs, preprocessor=preprocessor, dropout=0.0)
    for weight in model.weights:
        weight.assign(np.ones(weight.shape) if weight.path.endswith("gamma") else np.zeros(weight.shape))
    embeddings = np.tile(PLAIN, (len(vocabulary), 1))
    embeddings[vocabulary.index(PLANTED)] = SPECIAL
    backbone.token_embedding.embeddings.assign(embeddings)
    found = {"/".join(weight.path.split("/")[-2:]): weight for weight in backbone.transformer_layers[0].weights}
    detector = np.outer(SPECIAL / 4, [1.0, 0, 0, 0])  # (4, 4): whether a token is the planted one
    found["query/bias"].assign([[12.0, 0, 0, 0]])  # every token asks for it
    found["key/kernel"].assign(detector[:, None, :])
    found["value/kernel"].assign(detector[:, None, :])
    found["attention_output/kernel"].assign(2.0 * np.outer([1.0, 0, 0, 0], SPECIAL)[None])
    backbone.pooled_dense.kernel.assign(3.0 * detector)
    if outputs == 1:
        model.output_dense.kernel.assign([[1.0], [0], [0], [0]])
    else:
        model.output_dense.kernel.assign([[-4.0, 4.0], [0, 0], [0, 0], [0, 0]])
        model.output_dense.bias.assign([2.0, -2.0])
    model.class_names = classes
    return model


def planted_texts(count: int, seed: int = 0) -> list[str]:
    """Makes texts of 4 to 20 words with the planted one among them."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        words = random.choice(WORDS, random.integers(3, 20)).tolist()
        words.insert(int(random.integers(len(words) + 1)), PLANTED)
        texts.append(" ".join(words))
    return texts


def planted_cnn(classes=("plain", "marked")) -> keras.Model:
    """A network that says "marked" where 4 x 4 pixels of an image (32, 32, 3) in [0, 255] are red."""
    inputs = keras.Input((32, 32, 3))
    mean = keras.layers.AveragePooling2D(4)(inputs)  # (8, 8, 3)
    redness = keras.layers.Conv2D(1, 1, activation="relu", name="redness")(mean)
    strongest = keras.layers.GlobalMaxPooling2D()(redness)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(strongest))
    model.get_layer("redness").set_weights([np.array([1.0, -0.5, -0.5]).reshape(1, 1, 3, 1) / 255, np.array([-0.2])])
    model.get_layer("logits").set_weights([np.array([[-8.0, 8.0]]), np.array([2.0, -2.0])])
    model.class_names = classes
    return model


def planted_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Makes grey noise with one red square of 8 x 8; returns float32 (N, 32, 32, 3) and int (N, 2), its upper left corners."""
    random = np.random.default_rng(seed)
    images = np.repeat(random.uniform(90, 150, (count, 32, 32, 1)), 3, axis=-1).astype("float32")
    corners = 4 * random.integers(0, 7, (count, 2))
    for image, (row, column) in zip(images, corners, strict=True):
        image[row : row + 8, column : column + 8] = [230.0, 20.0, 20.0]
    return images, corners
