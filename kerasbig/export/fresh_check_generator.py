"""Runs a generator's exported file the way a stranger would: a script for a fresh process, where `import kerasbig` fails.

    python -P fresh_check_generator.py saved_model|hdf5|litert JOB.json RESULT.json

JOB: {"path": folder, "texts": [...], "max_tokens": n}. RESULT: {"texts": [...], "log_likelihood": [...], ...}.
Kept free of KerasBig on purpose: it is also the shortest example of how each format is used.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    # A check that could fall back on KerasBig would prove nothing.
    sys.modules["kerasbig"] = None  # type: ignore[assignment]
    # Keras and TensorFlow import these if they are there; no file needs them, and a quarter of the start goes into it.
    sys.modules["sklearn"] = sys.modules["jax"] = None  # type: ignore[assignment]


def check_saved_model(path: str, texts: list[str], max_tokens: int) -> dict:
    """Needs tensorflow and tensorflow_text."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    loaded = tf.saved_model.load(path)
    settings = {"max_tokens": max_tokens, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 0}
    inputs = {"text": tf.constant(texts), **{name: tf.constant(value) for name, value in settings.items()}}

    def decoded(strings: tf.Tensor) -> list[str]:
        return [text.decode() for text in strings.numpy()]

    score = loaded.signatures["score"](text=inputs["text"])
    state, finished = loaded.stream_begin(**{**inputs, "text": inputs["text"][:1]}), False
    while not finished:
        state, written, finished = loaded.stream_next(state, tf.constant(4))
    return {
        "texts": decoded(loaded.signatures["serving_default"](**inputs)["text"]),
        "texts_xla": decoded(loaded.signatures["generate_xla"](**inputs)["text"]),
        "texts_streamed": [written.numpy().decode()],
        "log_likelihood": score["log_likelihood"].numpy().tolist(),
    }


def check_hdf5(path: str, texts: list[str], max_tokens: int, scratch: str) -> dict:
    """Needs keras, keras_hub and tokenizers."""
    import keras
    import keras_hub  # noqa: F401
    import numpy as np
    import tensorflow as tf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    expand_weights = _module("fresh_check").expand_weights
    with open(f"{path}/model.json", encoding="utf-8") as file:
        model = keras.models.model_from_json(file.read())
    expand_weights(f"{path}/model.weights.h5", f"{scratch}.weights.h5")
    model.load_weights(f"{scratch}.weights.h5")
    own = model.preprocessor.tokenizer
    # KerasHub's own tokenizer does not cut words as GPT-2 does.
    tokenizer = Tokenizer(models.BPE(own.vocabulary, [tuple(merge.split(" ")) for merge in own.merges]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    end, longest = own.end_token_id, model.backbone.max_sequence_length

    @tf.function(input_signature=[tf.TensorSpec([1, None], tf.int32)])
    def logits_of(ids: tf.Tensor) -> tf.Tensor:
        return model({"token_ids": ids, "padding_mask": tf.ones_like(ids)}, training=False)

    token_ids, written, likelihoods = [encoding.ids for encoding in tokenizer.encode_batch(texts)], [], []
    for row in token_ids:
        ids = (row or [end])[-(longest - min(max_tokens, longest // 2)) :]
        new: list[int] = []
        while len(new) < min(max_tokens, longest - len(ids)) and end not in new:
            new.append(int(np.argmax(logits_of([ids + new])[0, -1])))
        # As text: tokenizer.decode(new), where a last character may not be whole.
        written.append([token for token in new if token != end])
        scored = [end, *row[:longest]]
        targets = np.array(scored[1:], "int64")
        chances = tf.nn.log_softmax(logits_of([scored[:-1] or [end]])[0, : len(targets)]).numpy()
        likelihoods.append(float(chances[np.arange(len(targets)), targets].sum(dtype="float64")))
    return {"ids": written, "log_likelihood": likelihoods, "token_ids": [row[:longest] for row in token_ids]}


def check_litert(path: str, texts: list[str], max_tokens: int) -> dict:
    """Needs ai_edge_litert, tokenizers and numpy."""
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    from tokenizers import Tokenizer

    generator = _module("litert_generator").LiteRTGenerator(path, threads=1)
    tokenizer = Tokenizer.from_file(f"{path}/tokenizer.json")
    tokenizer.no_truncation()
    return {
        "texts": generator.generate(texts, max_tokens=max_tokens),
        "log_likelihood": [likelihood for likelihood, _ in generator.score(texts)],
        "token_ids": [encoding.ids[: generator.longest] for encoding in tokenizer.encode_batch(texts)],
    }


def _module(name: str) -> ModuleType:
    """Imports a file that lies beside this one and needs nothing of KerasBig."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    kind, job_file, result_file = sys.argv[1:]
    with open(job_file, encoding="utf-8") as stream:
        job = json.load(stream)
    if kind == "hdf5":
        answers = check_hdf5(job["path"], job["texts"], job["max_tokens"], scratch=result_file)
    else:
        answers = {"saved_model": check_saved_model, "litert": check_litert}[kind](job["path"], job["texts"], job["max_tokens"])
    with open(result_file, "w", encoding="utf-8") as stream:
        json.dump(answers, stream)
