"""Export of generators: every format writes and scores as the model does, in a process without KerasBig."""

from __future__ import annotations

import ast
import inspect
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from test_generation import SENTENCE, other_families, scatter

import kerasbig as kb
from kerasbig.data import token_text
from kerasbig.decoding import settings
from kerasbig.decoding.choosing import weights_of
from kerasbig.export import bundles, generator, kinds, litert_generator, loading, parity
from kerasbig.export.generator_files import write_litert
from kerasbig.export.generator_graph import SETTINGS, GeneratorGraph, whole_characters
from kerasbig.export.generator_predictors import SavedModelGenerator
from kerasbig.export.litert_generator import LiteRTGenerator
from kerasbig.vision import face

pytestmark = pytest.mark.slow

PROMPTS = ["a film", "", "你好 the quick brown fox " * 8, "x"]
GREEDY: dict[str, Any] = {"max_tokens": 12}
SAMPLED: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 3}
RUNNER = Path(litert_generator.__file__)


@pytest.fixture(scope="module")
def model() -> keras_hub.models.CausalLM:
    pairs = kb.text.learn_bpe([SENTENCE, "a film, a film", "the quick brown fox"] * 2, 300)
    return scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=64))


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, each run in a fresh process."""
    folder = tmp_path_factory.mktemp("export") / "tales"
    return kb.export.bundle(model, folder, examples=["你好 a film"], metrics={"bits_per_byte": 2.0})


@pytest.fixture(scope="module")
def loaded(exported: Path) -> dict[str, Any]:
    """Each format, loaded once."""
    return {format: kb.export.load(exported, format) for format in ("saved_model", "hdf5", "litert")}


@pytest.fixture(scope="module")
def float_step(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    write_litert(kb.export.float32_twin(model), folder, None)
    return folder


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the fresh processes where a test is about something else."""
    monkeypatch.setattr(
        bundles, "run_checks", lambda folders, expected, quantize: {name: {"max_abs_nats_per_token": 0.0} for name in folders}
    )


def local(model: keras.Model, prompts: list[str], options: dict[str, Any]) -> list[str]:
    method = "sample" if "temperature" in options else "greedy"
    return kb.text.generate(model, prompts, method=method, compiled=False, **options)


def likelihood(model: keras.Model, text: str) -> float:
    ids = [model.preprocessor.tokenizer.end_token_id, *model.preprocessor.tokenizer.tokenize(text)][:65]
    if len(ids) == 1:
        return 0.0
    logits = model({"token_ids": np.array([ids[:-1]]), "padding_mask": np.ones((1, len(ids) - 1), "int32")})
    return -float(np.sum(keras.losses.sparse_categorical_crossentropy(np.array([ids[1:]]), logits, from_logits=True)))


def tensors(texts: list[str], **options: Any) -> dict[str, tf.Tensor]:
    defaults = {"max_tokens": 12, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 0}
    return {"text": tf.constant(texts), **{name: tf.constant(value) for name, value in (defaults | options).items()}}


# What is written


def test_the_manifest_says_what_was_measured(exported: Path, model: keras.Model) -> None:
    manifest = kb.export.read_manifest(exported)
    assert list(manifest["formats"]) == ["saved_model", "hdf5", "litert"]
    assert (manifest["task"], manifest["classes"], manifest["sequence_length"]) == ("text-generator", None, 64)
    assert manifest["model_fingerprint"] == kinds.fingerprint(model)
    for name, entry in manifest["formats"].items():
        measured = entry["parity"]
        assert 0 <= measured["max_abs_nats_per_token"] <= measured["tolerance"]
        assert measured["equal_texts"] == measured["examples"] == 1 or name == "litert"
    assert manifest["formats"]["saved_model"]["parity"]["max_abs_nats_per_token"] < 1e-4


def test_every_format_answers_the_built_in_texts(model: keras.Model, tmp_path: Path) -> None:
    manifest = kb.export.read_manifest(kb.export.bundle(model, tmp_path / "tales", quantize=None))
    for entry in manifest["formats"].values():
        assert entry["parity"]["equal_texts"] == entry["parity"]["examples"] == len(parity.DEFAULT_EXAMPLES)
        assert entry["parity"]["max_abs_nats_per_token"] < 1e-4


@pytest.mark.parametrize("format", ["saved_model", "hdf5"])
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_predictor_writes_as_the_model(loaded: dict[str, Any], model: keras.Model, format: str, options: dict[str, Any]) -> None:
    predictor = loaded[format]
    assert isinstance(predictor, kb.export.Generator)
    assert predictor.format == format
    expected = local(model, PROMPTS, options)
    assert predictor.generate(PROMPTS, **options) == expected
    assert [predictor.generate([prompt], **options)[0] for prompt in PROMPTS] == expected
    assert predictor.generate([]) == []
    assert len(set(expected)) == len(PROMPTS)


@pytest.mark.parametrize("format", ["saved_model", "hdf5"])
def test_a_predictor_scores_as_the_model(loaded: dict[str, Any], model: keras.Model, format: str) -> None:
    scores = loaded[format].score(PROMPTS)
    np.testing.assert_allclose([score for score, _ in scores], [likelihood(model, text) for text in PROMPTS], rtol=1e-4)
    lengths = [min(64, len(model.preprocessor.tokenizer.tokenize(text))) for text in PROMPTS]
    assert [count for _, count in scores] == lengths


def test_more_tokens_than_the_context_has(loaded: dict[str, Any], model: keras.Model) -> None:
    prompts = ["a film", "the quick brown fox " * 3]
    expected = local(model, prompts, {"max_tokens": 100})
    assert loaded["saved_model"].generate(prompts, max_tokens=100) == expected


def test_bytes_on_disk_are_those_of_the_manifest(exported: Path, loaded: dict[str, Any]) -> None:
    for name, entry in kb.export.read_manifest(exported)["formats"].items():
        assert loaded[name].bytes_on_disk() == entry["bytes"]


def test_the_saved_model_holds_the_weights_once(exported: Path, model: keras.Model) -> None:
    stored = sum(file.stat().st_size for file in (exported / "1" / "variables").iterdir())
    assert 0 < stored - 4 * model.count_params() < 20_000
    # Nor are they constants in the graph.
    assert (exported / "1" / "saved_model.pb").stat().st_size < 4 * 10**6


def test_signatures(loaded: dict[str, Any]) -> None:
    signatures = loaded["saved_model"]._loaded.signatures
    assert set(signatures) == {"serving_default", "generate_xla", "score"}
    for name in ("serving_default", "generate_xla"):
        inputs = signatures[name].structured_input_signature[1]
        assert {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in inputs.items()} == {
            "text": ("string", [None]),
            **{key: (spec.dtype.name, []) for key, spec in SETTINGS.items()},
        }
        assert list(signatures[name].structured_outputs) == ["text"]


def test_only_what_is_called_xla_needs_xla(exported: Path) -> None:
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((exported / "1" / "saved_model.pb").read_bytes())
    (graph,) = message.meta_graphs
    functions = {function.signature.name: function for function in graph.graph_def.library.function}

    def compiled(name: str) -> bool:
        function = functions[name]
        inner = {value.func.name for node in function.node_def for value in node.attr.values() if value.func.name}
        inner |= {each.name for node in function.node_def for value in node.attr.values() for each in value.list.func}
        return function.attr["_XlaMustCompile"].b or any(compiled(each) for each in inner)

    nodes = {node.name: node for node in graph.graph_def.node}
    called = {
        name: nodes[next(iter(signature.outputs.values())).name.split(":")[0]].attr["f"].func.name
        for name, signature in graph.signature_def.items()
        if name in ("serving_default", "generate_xla", "score")
    }
    assert {name: compiled(function) for name, function in called.items()} == {
        "serving_default": False,
        "generate_xla": True,
        "score": False,
    }


def test_xla_writes_the_same(exported: Path, model: keras.Model) -> None:
    predictor = SavedModelGenerator(exported / "1", xla=True)
    expected = local(model, PROMPTS, SAMPLED)
    assert predictor.generate(PROMPTS, **SAMPLED) == expected
    # Three rows run in the program of four.
    assert predictor.generate(PROMPTS[:3], **SAMPLED) == expected[:3]


def test_a_stream_is_the_text(loaded: dict[str, Any], model: keras.Model) -> None:
    functions = loaded["saved_model"]._loaded
    state, texts, finished = functions.stream_begin(**tensors(["a film"], **SAMPLED)), [""], False
    while not finished:
        state, text, finished = functions.stream_next(state, tf.constant(2))
        texts.append(text.numpy().decode())
    assert [texts[-1]] == local(model, ["a film"], SAMPLED)
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    assert len(texts) > 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "Expected max_tokens to be at least 1"),
        ({"temperature": -1.0}, "Expected temperature to be 0"),
        ({"top_k": -1}, "Expected top_k to be 0"),
        ({"top_p": 0.0}, "Expected top_p above 0 and at most 1"),
        ({"top_p": float("nan")}, "Expected top_p above 0"),
        ({"repetition_penalty": 0.0}, "Expected repetition_penalty above 0"),
    ],
)
def test_a_signature_refuses_what_is_out_of_range(loaded: dict[str, Any], options: dict[str, Any], words: str) -> None:
    signature = loaded["saved_model"]._loaded.signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        signature(**tensors(["a"], **options))


def test_predictors_refuse_what_is_out_of_range(loaded: dict[str, Any]) -> None:
    for format in ("saved_model", "litert"):
        predictor = loaded[format]
        for setting, words in (
            ({"top_p": 2}, r"Expected top_p above 0 and at most 1. Received: top_p=2"),
            ({"temperature": -1.0}, "Expected temperature .*Received: temperature=-1.0"),
            ({"max_tokens": 0}, "Expected max_tokens to be a whole number from 1. Received: max_tokens=0"),
            ({"max_tokens": 1.5}, "Expected max_tokens to be a whole number from 1. Received: max_tokens=1.5"),
            ({"top_k": -1}, "Expected top_k to be a whole number from 0"),
            ({"repetition_penalty": 0.0}, "Expected repetition_penalty above 0"),
            ({"seed": 2**31}, "Expected seed to be a whole number of 32 bits"),
        ):
            with pytest.raises(ValueError, match=words):
                predictor.generate(["a"], **setting)
        for given in ("a", [1]):
            with pytest.raises(ValueError, match="Expected texts to be"):
                predictor.generate(given)


# LiteRT


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_runner_writes_as_the_model(float_step: Path, model: keras.Model, options: dict[str, Any]) -> None:
    runner = LiteRTGenerator(float_step, threads=1)
    expected = local(model, PROMPTS, options)
    assert runner.generate(PROMPTS, **options) == expected
    pieces = list(runner.stream(PROMPTS[0], **options))
    assert "".join(pieces) == expected[0]
    assert len(pieces) > 3
    assert runner.generate(["a film"], max_tokens=100) == local(model, ["a film"], {"max_tokens": 100})


def test_texts_are_written_at_once(float_step: Path) -> None:
    runner = LiteRTGenerator(float_step, threads=1)
    expected = [list(runner.stream(text, **SAMPLED)) for text in PROMPTS]
    # In turns, by one thread: each text has its own keys and values.
    streams = [runner.stream(text, **SAMPLED) for text in PROMPTS]
    pieces: list[list[str]] = [[] for _ in PROMPTS]
    for row in itertools.zip_longest(*streams):
        for place, piece in enumerate(row):
            pieces[place] += [] if piece is None else [piece]
    assert pieces == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: list(runner.stream(text, **SAMPLED)), PROMPTS)) == expected
    assert len(runner._free) <= litert_generator.MOST_FREE


def test_the_runner_scores_as_the_model(float_step: Path, model: keras.Model) -> None:
    scores = LiteRTGenerator(float_step).score(PROMPTS)
    np.testing.assert_allclose([score for score, _ in scores], [likelihood(model, text) for text in PROMPTS], rtol=1e-4)
    assert [count for _, count in scores][:2] == [len(model.preprocessor.tokenizer.tokenize("a film")), 0]


def test_int8_weights_are_small_and_near(exported: Path, loaded: dict[str, Any], float_step: Path) -> None:
    predictor = loaded["litert"]
    exact = LiteRTGenerator(float_step).score(PROMPTS)
    for (score, count), (right, _) in zip(predictor.score(PROMPTS), exact, strict=True):
        assert abs(score - right) <= 0.3 * max(count, 1)
    assert (exported / "model.tflite").stat().st_size < 0.4 * (float_step / "model.tflite").stat().st_size
    assert predictor.generate(["a film"], max_tokens=5)[0]


def test_the_runner_needs_three_packages(exported: Path, tmp_path: Path) -> None:
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(RUNNER.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"ai_edge_litert", "tokenizers", "numpy"}
    for file in (RUNNER, exported / "model.tflite", exported / "tokenizer.json"):
        shutil.copy(file, tmp_path)
    code = "import sys; sys.modules.update(tensorflow=None, keras=None, kerasbig=None); sys.argv = ['', '.', 'a film']; "
    code += "import runpy; runpy.run_path('litert_generator.py', run_name='__main__')"
    finished = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == LiteRTGenerator(tmp_path).generate(["a film"])[0] + "\n"


def test_loading_litert_needs_no_tensorflow(exported: Path, run_python: Callable[[str], str]) -> None:
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import kerasbig as kb
print(kb.export.load({str(exported)!r}, "litert").generate(["a film"], max_tokens=4))
"""
    assert run_python(code).splitlines()[-1] == str(kb.export.load(exported, "litert").generate(["a film"], max_tokens=4))


def test_the_runner_s_parts_are_those_of_the_library() -> None:
    for seed in (0, 7, -1, 2**31 - 1):
        np.testing.assert_array_equal(litert_generator.uniform_draws(seed, 9), settings.uniform_draws(seed, 9))
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 50).astype("float32")
    for temperature, top_k, top_p in ((1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.6), (0.9, 20, 0.8)):
        given = {"temperature": tf.constant(temperature), "top_k": tf.constant(top_k), "top_p": tf.constant(top_p)}
        weights = weights_of(tf.constant(logits[None]), given).numpy()[0].astype("float64")
        draws = (np.arange(3000) + 0.5) / 3000
        chosen = [litert_generator.choose(logits, temperature, top_k, top_p, draw) for draw in draws]
        np.testing.assert_allclose(np.bincount(chosen, minlength=50) / 3000, weights / weights.sum(), atol=1e-3)


def test_characters_are_whole_everywhere() -> None:
    random = np.random.default_rng(1)
    raws = ["a é 电 🎉".encode()[:end] for end in range(14)]
    choice = [0x41, 0x80, 0x90, 0xA0, 0xBF, 0xC1, 0xC3, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xF5, 0xFF]
    raws += [bytes(random.choice(choice, random.integers(0, 9)).tolist()) for _ in range(3000)]
    expected = [token_text.whole_characters(raw) for raw in raws]
    assert [text.decode() for text in whole_characters(tf.constant(raws)).numpy()] == expected
    assert [litert_generator.whole_characters(raw) for raw in raws] == expected


def test_a_runner_without_its_files(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected model.tflite"):
        LiteRTGenerator(tmp_path)
    shutil.copy(exported / "model.tflite", tmp_path)
    (tmp_path / "tokenizer.json").write_text((exported / "tokenizer.json").read_text("utf-8").replace("<|endoftext|>", "<|end|>"), "utf-8")
    with pytest.raises(ValueError, match=r"to hold <\|endoftext\|> and the length of the context"):
        LiteRTGenerator(tmp_path)


# Files by themselves


def test_files_without_a_manifest_are_known(exported: Path, loaded: dict[str, Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "tales"))
    (copy / "manifest.json").unlink()
    for name, format in (("1", "saved_model"), ("model.weights.h5", "hdf5"), ("model.tflite", "litert")):
        assert loading._kind_by_itself(copy / name if format == "saved_model" else copy, format).task == "text-generator"
    assert kb.export.load(copy / "model.tflite").generate(["a film"], max_tokens=4) == loaded["litert"].generate(["a film"], max_tokens=4)
    (copy / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}', "utf-8")
    with pytest.raises(ValueError, match=r"Expected .* to be of text-classifier or text-generator or .*detector. It is altered"):
        kb.export.load(copy / "model.tflite")


def test_a_task_of_a_later_version(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "tales"))
    text = (copy / "manifest.json").read_text("utf-8")
    (copy / "manifest.json").write_text(text.replace('"text-generator"', '"text-painter"'), "utf-8")
    with pytest.raises(
        ValueError, match=r"Expected a Bundle of text-classifier or text-generator or .*detector. Received: the task 'text-painter'"
    ):
        kb.export.load(copy, "litert")


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.task)
def test_a_row_of_the_table_is_whole(kind: kinds.Kind) -> None:
    for name in (name for name in vars(kinds.Exporter) if not name.startswith("_")):
        taken = inspect.signature(getattr(kind.exporter, name)).parameters
        assert len(taken) == len(inspect.signature(getattr(kinds.Exporter, name)).parameters) - 1, name
    # No ONNX of generators.
    assert set(kind.predictors) == set(bundles.FORMATS) - ({"onnx"} if kind.task == "text-generator" else set())
    assert all(inspect.isclass(kind.predictor(format)) for format in kind.predictors)
    assert any(hasattr(module, kind.model) for module in (keras_hub.models, face))


# What goes wrong


def test_a_difference_fails_and_leaves_nothing(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect = generator.expect

    def shifted(*arguments: Any) -> dict[str, generator.Written]:
        return {name: replace(each, likelihoods=each.likelihoods + 100.0) for name, each in expect(*arguments).items()}

    monkeypatch.setattr(generator, "expect", shifted)
    with pytest.raises(kb.export.ExportError, match=r"litert to find the model's log-likelihood within .* nats a token. Received: "):
        kb.export.litert(model, tmp_path / "tales", examples=["a film"])
    assert list(tmp_path.iterdir()) == []


def test_answers_are_compared(model: keras.Model) -> None:
    texts = ("a film", "x")
    (written,) = set(map(id, generator.expect(model, model, texts, ("litert",), None).values()))
    right = generator.expect(model, model, texts, ("litert",), None)["litert"]
    assert written
    good = {"texts": right.continued, "log_likelihood": right.likelihoods.tolist(), "token_ids": right.token_ids}
    assert right.measured("litert", good, None)["equal_texts"] == 2
    for change, words in (
        ({"texts": ["other", right.continued[1]]}, "litert to write .* after 'a film', as the model does. Received: 'other'"),
        ({"texts_xla": ["other", right.continued[1]]}, "Received: 'other'"),
        ({"log_likelihood": [float("nan"), 0.0]}, "Received: nan for 'a film'"),
        ({"token_ids": [[1], right.token_ids[1]]}, "tokenizer.json to give the model's own token ids"),
    ):
        with pytest.raises(kb.export.ExportError, match=words):
            right.measured("litert", good | change, None)
    # Rounded weights may write otherwise, and so may rounding where two tokens are as likely.
    other = {**good, "texts": ["other", right.continued[1]]}
    assert right.measured("litert", other, "dynamic")["equal_texts"] == 1
    assert replace(right, leads=[0.0, 1.0]).measured("litert", other, None)["equal_texts"] == 1


def test_models_that_cannot_be_exported(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"GPT2CausalLM with its tokenizer.*Received: OPTCausalLM with OPTTokenizer"):
        kb.export.bundle(other_families()["opt"], tmp_path / "tales")
    with pytest.raises(ValueError, match=r"Expected quantize out of dynamic, float16, None for a text-generator. Received: 'int8'"):
        kb.export.litert(model, tmp_path / "tales", quantize="int8")
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, ["a b"])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=16)
    small = keras_hub.models.GPT2CausalLM(keras_hub.models.GPT2Backbone(4, 1, 1, 4, 4, max_sequence_length=16), preprocessor=preprocessor)
    with pytest.raises(ValueError, match=r"Expected a vocabulary with a token for each byte. Received: one without 254"):
        kb.export.hdf5(small, tmp_path / "tales")
    small.preprocessor = None
    with pytest.raises(TypeError, match="Expected model to have its preprocessor"):
        kb.export.hdf5(small, tmp_path / "tales")
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_model_is_refused(tmp_path: Path) -> None:
    model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300), sequence_length=16)
    model.backbone.layer_norm.beta.assign(np.full(128, np.nan, "float32"))
    with pytest.raises(kb.export.ExportError, match="Received: NaN or infinity; its training has diverged"):
        kb.export.hdf5(model, tmp_path / "tales")


# Models of other forms


@pytest.mark.usefixtures("unchecked")
def test_lora_and_mixed_precision_are_exported_as_they_compute(tmp_path: Path) -> None:
    pairs = kb.text.learn_bpe(["a film, a film", "the quick brown fox"], 300)
    model = scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=32, dtype="mixed_bfloat16"))
    model.backbone.enable_lora(2)
    for weight in model.weights:
        if "lora" in weight.path:
            weight.assign(np.random.default_rng(2).normal(0, 0.3, weight.shape).astype("float32"))
    twin = kb.export.float32_twin(model)
    folder = kb.export.bundle(model, tmp_path / "tales", ("hdf5",))
    assert kb.export.load(folder).generate(PROMPTS[:2], **GREEDY) == local(twin, PROMPTS[:2], GREEDY)
    plain = kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=32)
    assert local(scatter(plain), PROMPTS[:2], GREEDY) != local(twin, PROMPTS[:2], GREEDY)


@pytest.mark.usefixtures("unchecked")
def test_kerashub_s_own_model_cuts_words_as_gpt2(tmp_path: Path) -> None:
    pairs = kb.text.learn_bpe(["in 2019 and  2019"] * 2, 270)
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(pairs.vocabulary, pairs.merges)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=32)
    # More tokens than the tokenizer knows: such stand for nothing.
    backbone = keras_hub.models.GPT2Backbone(len(pairs.vocabulary) + 40, 1, 2, 8, 16, max_sequence_length=32)
    model = scatter(keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor))
    kb.export.hdf5(model, tmp_path / "tales")
    text = "६ a  2019\x00b  "
    graph = GeneratorGraph(model)
    (count,) = graph.score()(text=tf.constant([text]))["tokens"].numpy().tolist()
    assert count == len(model.preprocessor.tokenizer.tokenize(text)) > 5
    (written,) = graph.generate(xla=False)(**tensors([text], **SAMPLED))["text"].numpy()
    assert [written.decode()] == local(model, [text], SAMPLED)
    runner = tmp_path / "runner"
    runner.mkdir()
    write_litert(model, runner, None)
    assert LiteRTGenerator(runner).generate([text], **SAMPLED) == [written.decode()]
