"""Runs an exported file the way a stranger would: a script for a fresh process, where `import kerasbig` fails.

    python -P fresh_check.py saved_model|hdf5|litert|onnx JOB.json RESULT.json

JOB: {"path": folder or file, "texts": [...]}. RESULT: {"logits": [[...]], ...} and what else the format answers.
Kept free of KerasBig on purpose: it is also the shortest example of how each format is used.
"""

import json
import sys

if __name__ == "__main__":
    # A check that could fall back on KerasBig would prove nothing.
    sys.modules["kerasbig"] = None  # type: ignore[assignment]
    # Keras and TensorFlow import these if they are there; no file needs them, and a quarter of the start goes into it.
    sys.modules["sklearn"] = sys.modules["jax"] = None  # type: ignore[assignment]


def check_saved_model(path: str, texts: list[str]) -> dict:
    """Needs tensorflow and tensorflow_text."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    loaded = tf.saved_model.load(path)
    answer = loaded.signatures["serving_default"](text=tf.constant(texts))
    result = {name: value.numpy() for name, value in answer.items()}
    if "label" in result:
        result["label"] = [label.decode() for label in result["label"]]
    result["logits"] = loaded.signatures["logits"](text=tf.constant(texts))["logits"].numpy()
    return {name: value if isinstance(value, list) else value.tolist() for name, value in result.items()}


def expand_weights(source: str, target: str) -> None:
    """Writes the file that Keras reads: clustered kernels lie as indices into a codebook, two in a byte if 16 values do."""
    import h5py
    import numpy as np

    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if not isinstance(item, h5py.Dataset):
                new.require_group(name).attrs.update(item.attrs)
            elif not name.endswith(".indices"):
                old.copy(item, new, name)
            else:
                codebook, shape, indices = item.attrs["codebook"], item.attrs["shape"], item[()]
                if len(codebook) <= 16:
                    indices = np.stack([indices >> 4, indices & 15], axis=1).ravel()[: np.prod(shape)]
                new[name.removesuffix(".indices")] = codebook[indices].reshape(shape)

        new.attrs.update(old.attrs)
        old.visititems(visit)


def check_hdf5(path: str, texts: list[str], scratch: str) -> dict:
    """Needs keras and keras_hub."""
    import keras
    import keras_hub  # noqa: F401
    import tensorflow as tf

    with open(f"{path}/model.json", encoding="utf-8") as file:
        model = keras.models.model_from_json(file.read())
    plain = f"{scratch}.weights.h5"
    expand_weights(f"{path}/model.weights.h5", plain)
    model.load_weights(plain)
    # In a pipeline, as in `fit` and `predict`, KerasHub tokenizes with TensorFlow Text; called directly, with Python.
    features = next(iter(tf.data.Dataset.from_tensors(texts).map(model.preprocessor)))
    longest = int(tf.reduce_max(tf.where(features["padding_mask"])[:, 1])) + 1
    return {"logits": keras.ops.convert_to_numpy(model({name: value[:, :longest] for name, value in features.items()})).tolist()}


def check_litert(path: str, texts: list[str]) -> dict:
    """Needs ai_edge_litert, tokenizers and numpy."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{path}/tokenizer.json")
    interpreter = Interpreter(f"{path}/model.tflite", num_threads=1)
    inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
    output = interpreter.get_output_details()[0]["index"]
    token_ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    logits = []
    for row in token_ids:
        for index in inputs.values():
            interpreter.resize_tensor_input(index, (1, len(row)))
        interpreter.allocate_tensors()
        interpreter.set_tensor(inputs["token_ids"], np.asarray([row], "int32"))
        interpreter.set_tensor(inputs["padding_mask"], np.ones((1, len(row)), "int32"))
        interpreter.set_tensor(inputs["segment_ids"], np.zeros((1, len(row)), "int32"))
        interpreter.invoke()
        logits.append(interpreter.get_tensor(output)[0].tolist())
    return {"logits": logits, "token_ids": token_ids, "tensorflow": "tensorflow" in sys.modules}


def check_onnx(path: str, texts: list[str]) -> dict:
    """Needs onnx, onnxruntime, tokenizers and numpy."""
    import numpy as np
    import onnx
    import onnxruntime
    from tokenizers import Tokenizer

    onnx.checker.check_model(onnx.load(f"{path}/model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(f"{path}/model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_str(session.get_modelmeta().custom_metadata_map["tokenizer"])
    token_ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    logits = []
    for row in token_ids:
        shape = (1, len(row))
        inputs = {"token_ids": [row], "padding_mask": np.ones(shape), "segment_ids": np.zeros(shape)}
        logits.append(session.run(["logits"], {name: np.asarray(value, "int32") for name, value in inputs.items()})[0][0].tolist())
    return {"logits": logits, "token_ids": token_ids}


if __name__ == "__main__":
    kind, job_file, result_file = sys.argv[1:]
    with open(job_file, encoding="utf-8") as stream:
        job = json.load(stream)
    if kind == "hdf5":
        answers = check_hdf5(job["path"], job["texts"], scratch=result_file)
    else:
        answers = {"saved_model": check_saved_model, "litert": check_litert, "onnx": check_onnx}[kind](job["path"], job["texts"])
    with open(result_file, "w", encoding="utf-8") as stream:
        json.dump(answers, stream)
