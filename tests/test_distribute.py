"""Strategy and precision."""

from __future__ import annotations

import pytest

from kerasbig.distribute import fastest_precision, precision, strategy


@pytest.mark.parametrize("name", ["auto", "one"])
def test_one_device(name):
    assert strategy(name).num_replicas_in_sync == 1


def test_strategies_that_are_not_right_yet_are_refused():
    with pytest.raises(ValueError, match=r"Expected a strategy out of auto, one\. Received: 'mirrored'\. Use 'one'"):
        strategy("mirrored")


@pytest.mark.parametrize(("bfloat16", "policy"), [(1.0, "float32"), (0.81, "float32"), (0.79, "mixed_bfloat16"), (0.3, "mixed_bfloat16")])
def test_bfloat16_is_taken_where_it_is_a_quarter_faster(monkeypatch, bfloat16, policy):
    monkeypatch.setattr(precision, "_product_seconds", lambda dtype, *rest: {"float32": 1.0, "bfloat16": bfloat16}[dtype])
    found = fastest_precision()
    assert found.policy == policy
    assert (found.float32_ms, found.bfloat16_ms) == (1000.0, bfloat16 * 1000)
    assert found.to_dict()["policy"] == policy


def test_precision_is_measured():
    found = fastest_precision(32, 32, repeats=2)
    assert min(found.float32_ms, found.bfloat16_ms) > 0
    assert "CPU" in found.device or "GPU" in found.device
