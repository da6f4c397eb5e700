"""Stochastic depth: whole branches of a ViT's blocks are left out at random in training."""

from __future__ import annotations

import functools
from typing import Any

import keras


def encoder_blocks(backbone: keras.Model) -> list[Any]:
    """Returns the transformer blocks of a KerasHub ViT, in their order.

    They are what holds `mha`, `mlp` and two layer norms; KerasHub does not export their class.
    """
    parts = ("mha", "mlp", "layer_norm_1", "layer_norm_2", "dropout")
    return [layer for layer in backbone._flatten_layers() if all(hasattr(layer, name) for name in parts)]


def drop_branches(backbone: keras.Model, rate: float) -> None:
    """Lets each block leave out its attention and its feed-forward branch for some of the images of a batch, in training.

    The rate grows from 0 in the first block to `rate` in the last. Nothing is added to the weights, and saved files know
    nothing of it: like augmentation, it belongs to the training.

    Args:
        backbone: A KerasHub ViT, before it is first fitted.
        rate: Share of the last block's branches to leave out, 0 to below 1.

    Raises:
        ValueError: If the backbone has no such blocks.

    Source: Huang et al., 2016, arXiv:1603.09382.
    """
    blocks = encoder_blocks(backbone)
    if not blocks:
        raise ValueError(f"Expected a ViT, whose blocks can be dropped. Received: drop_path={rate} and a {type(backbone).__name__}.")
    for place, block in enumerate(blocks):
        share = rate * place / max(len(blocks) - 1, 1)
        # A built layer is locked against new sublayers; Keras's own LoRA opens and closes it in the same way.
        block._tracker.unlock()
        block.drop_path = keras.layers.Dropout(share, noise_shape=(None, 1, 1), dtype=block.dtype_policy, name="drop_path")
        block._tracker.lock()
        kind: Any = type(block)
        block.__class__ = _dropping(kind)


@functools.cache
def _dropping(kind: type) -> type:
    """Returns a block's class with branches that may be left out; it is saved under its own name."""

    def call(self: Any, inputs: Any) -> Any:
        x = self.layer_norm_1(inputs)
        x = inputs + self.drop_path(self.dropout(self.mha(x, x)))  # (B, T, D)
        return x + self.drop_path(self.mlp(self.layer_norm_2(x)))

    return type(kind.__name__, (kind,), {"call": call, "__module__": kind.__module__})
