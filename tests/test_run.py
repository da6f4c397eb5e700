"""The Run folder: written whole, read back equal, refused when broken."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kerasbig.data import predict_logits
from kerasbig.run import open_run, save_run
from kerasbig.text import bert_classifier

TEXTS = ["a great film", "dull", ""]


@pytest.fixture
def saved(tiny_bert, tmp_path):
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_loss": 0.5}]
    run = save_run(tmp_path / "run", tiny_bert, options={"seed": 3}, metrics={"test": {"accuracy": 0.5}}, history=history)
    return run, tiny_bert


def test_round_trip(saved):
    run, model = saved
    assert (run.options, run.metrics, run.classes) == ({"seed": 3}, {"test": {"accuracy": 0.5}}, ("negative", "positive"))
    assert run.history == [{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.25, "val_loss": 0.5}]
    again = run.load_model()
    assert again.class_names == model.class_names
    np.testing.assert_array_equal(predict_logits(again, TEXTS), predict_logits(model, TEXTS))
    half = run.load_model("mixed_bfloat16")
    np.testing.assert_allclose(predict_logits(half, TEXTS), predict_logits(model, TEXTS), atol=0.05)


def test_a_run_s_model_is_a_preset_and_loads_without_kerasbig(saved, run_python):
    run, model = saved
    code = f"""
import sys; sys.modules["kerasbig"] = None
import json, keras_hub
model = keras_hub.models.BertTextClassifier.from_preset({str(run.folder / "preset")!r})
print(json.dumps(model.predict({TEXTS!r}, verbose=0).tolist()))
"""
    np.testing.assert_allclose(json.loads(run_python(code).splitlines()[-1]), predict_logits(model, TEXTS), atol=1e-6)
    other = bert_classifier(("a", "b", "c"), preset=run.folder / "preset", sequence_length=32)
    np.testing.assert_array_equal(other.backbone.token_embedding.embeddings.numpy(), model.backbone.token_embedding.embeddings.numpy())


def test_an_existing_run_is_kept(saved):
    run, model = saved
    with pytest.raises(FileExistsError, match="to be new, but it exists"):
        save_run(run.folder, model, options={}, metrics={}, history=[])
    assert open_run(run.folder).options == {"seed": 3}
    assert save_run(run.folder, model, options={}, metrics={}, history=[], overwrite=True).options == {}


def test_broken_runs(saved, tmp_path):
    run, _ = saved
    with pytest.raises(FileNotFoundError, match=r"there is none\. Train one with"):
        open_run(tmp_path / "nothing")
    (tmp_path / "cut.training").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run the same 'kerasbig train' again"):
        open_run(tmp_path / "cut")
    config = run.folder / "config.json"
    text = config.read_text()
    config.write_text("{")
    with pytest.raises(ValueError, match="to be JSON"):
        open_run(run.folder)
    config.write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ValueError, match=r"Expected format_version 1 in .*Received: 9"):
        open_run(run.folder)
    config.write_text(text)
    (run.folder / "preset/model.weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match=r"to hold the trained model, but it cannot be read"):
        open_run(run.folder).load_model()
    (run.folder / "classes.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"to hold classes\.json, which is missing"):
        open_run(run.folder)
