"""What Python decides anew at each pass over the data, and what becomes of the process's memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kerasbig.data.passes import asked_anew, planned_batches

ROW = tf.TensorSpec((None,), tf.int64)
# What TensorFlow logs stands before the line about it: it writes at once.
WATCHED = """
import sys, numpy as np, tensorflow as tf, kerasbig as kb
classes, lines, targets = ("bad", "good"), ["a fine film", "a dull film"] * 4, np.array([1, 0] * 4, "int32")
def examples(inputs):
    return kb.data.Examples(inputs, targets, classes, list(range(8)), "here", "train")
def read(what, data):
    print(what, len(list(data)), file=sys.stderr, flush=True)
bert = kb.text.bert_classifier(classes, size="tiny", vocabulary=kb.text.learn_wordpiece(lines, 60))
read("texts", kb.data.batches(examples(lines), bert))
gpt = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(lines, 300), sequence_length=16)
read("documents", kb.data.batches(kb.data.Documents.from_texts(lines, role="train"), gpt))
images = kb.vision.vit_classifier(classes, size="lite-2", image_shape=(8, 8, 3), patch_size=4)
read("images", kb.data.batches(examples(np.zeros((8, 8, 8, 3), "uint8")), images))
read("a generator", tf.data.Dataset.from_generator(lambda: lines, output_signature=tf.TensorSpec((), "string")))
"""


def test_the_plan_is_asked_for_at_each_pass_and_passes_may_overlap():
    plans = iter([[np.array([2, 0]), np.array([1])], [np.array([1, 2]), np.array([0])]])
    dataset = planned_batches(lambda: next(plans), lambda chosen: {"twice": chosen * 2, "once": chosen}, {"twice": ROW, "once": ROW})
    one, other = dataset.as_numpy_iterator(), dataset.as_numpy_iterator()
    found = [(next(one)["twice"].tolist(), next(other)["once"].tolist()) for _ in range(2)]
    assert found == [([4, 0], [1, 2]), ([2], [0])]
    assert next(one, None) is None


def test_an_error_is_raised_with_its_words():
    def fail():
        raise ValueError("the file has changed")

    with pytest.raises(tf.errors.OpError, match="the file has changed"):
        list(asked_anew(fail, ROW))


@pytest.mark.slow
def test_tensorflow_changes_how_memory_is_allocated_for_generators_only() -> None:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"}  # importing JAX, as Keras does, sets it to 1
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    ours, of_a_generator = re.split(r"images 1\n", done.stderr)
    assert "texts 1\ndocuments 1\n" in re.sub(r"(?m)^[IWE]\d{4} .*\n", "", ours)
    assert "M_TRIM_THRESHOLD" not in ours
    assert "M_TRIM_THRESHOLD" in of_a_generator
