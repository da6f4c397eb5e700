"""Losses that ask for a margin between people: additive in the angle (ArcFace) or in its cosine (CosFace)."""

from __future__ import annotations

import math
from typing import Any

import keras

from kerasbig.vision.labels import are_shares

# Next to ±1 the sine's slope is infinite; there, it is held at this.
SMALLEST_SINE = 1e-4


class MarginLoss(keras.losses.Loss):
    """Cross entropy in nats after the logit of the right person was made smaller; `ArcFaceLoss` and `CosFaceLoss` are its kinds.

    Args:
        margin: How much closer than the others the right person has to be.
        scale: What the model multiplied its cosines by.
        name: A name.

    Raises:
        ValueError: If margin or scale is out of its range.
    """

    def __init__(self, margin: float, scale: float, name: str | None = None, **kwargs: Any):
        require_margin(margin, scale)
        super().__init__(name=name, **kwargs)
        self.margin, self.scale = float(margin), float(scale)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Takes ids (B,) or (B, 1), or shares (B, C) that sum to 1, and logits (B, C); returns (B,).

        A class is given its share of the margin, so that with one class alone both are the paper's formula.
        """
        logits = keras.ops.cast(y_pred, "float32")
        if are_shares(y_true, y_pred):
            shares = keras.ops.cast(y_true, "float32")
        else:
            shares = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32"), y_pred.shape[-1])
        harder = self.scale * self.with_margin(logits / self.scale)
        return keras.losses.categorical_crossentropy(shares, logits + shares * (harder - logits), from_logits=True)

    def with_margin(self, cosines: Any) -> Any:
        """Returns what the cosines are counted as where they are those of the right person."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}


@keras.saving.register_keras_serializable(package="kerasbig")
class ArcFaceLoss(MarginLoss):
    """The angle to the right person is counted as larger by a margin: s cos(θ + m).

    Beyond θ + m = π, where the cosine would rise again, s (cos θ - m sin m) goes on falling, as in the authors' own program.

    Args:
        margin: m in radians, from 0 to below π / 2.
        scale: s, as the model has it.
        name: A name.

    Example:
        >>> import numpy as np
        >>> loss, plain, logits = ArcFaceLoss(0.5, 16), ArcFaceLoss(0.0, 16), np.array([[9.6, 4.8]])
        >>> float(loss(np.array([0]), logits)) > float(plain(np.array([0]), logits))
        True

    Source: Deng et al., 2019, arXiv:1801.07698, formula 3.
    """

    def __init__(self, margin: float = 0.5, scale: float = 64.0, name: str = "arcface", **kwargs: Any):
        super().__init__(margin, scale, name, **kwargs)

    def with_margin(self, cosines: Any) -> Any:
        """Returns cos(θ + m)."""
        sines = keras.ops.sqrt(keras.ops.maximum(1.0 - cosines * cosines, SMALLEST_SINE**2))
        turned = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        beyond = cosines - self.margin * math.sin(self.margin)
        return keras.ops.where(cosines > -math.cos(self.margin), turned, beyond)


@keras.saving.register_keras_serializable(package="kerasbig")
class CosFaceLoss(MarginLoss):
    """The cosine to the right person is counted as smaller by a margin: s (cos θ - m).

    Args:
        margin: m, from 0 to below π / 2.
        scale: s, as the model has it.
        name: A name.

    Example:
        >>> import numpy as np
        >>> loss = CosFaceLoss(0.35, 10)  # 10 (0.6 - 0.35) is the other's 2.5
        >>> round(float(loss(np.array([0]), np.array([[6.0, 2.5]]))), 4)
        0.6931

    Source: Wang et al., 2018, arXiv:1801.09414, formula 4.
    """

    def __init__(self, margin: float = 0.35, scale: float = 64.0, name: str = "cosface", **kwargs: Any):
        super().__init__(margin, scale, name, **kwargs)

    def with_margin(self, cosines: Any) -> Any:
        """Returns cos θ - m."""
        return cosines - self.margin


MARGIN_LOSSES: dict[str, type[ArcFaceLoss] | type[CosFaceLoss]] = {"arcface": ArcFaceLoss, "cosface": CosFaceLoss}


def require_margin(margin: float, scale: float) -> None:
    """Raises ValueError for a margin or a scale that makes no sense.

    Example:
        >>> require_margin(0.5, 64)
    """
    if not 0 <= margin < math.pi / 2:
        raise ValueError(f"Expected margin from 0 to below π / 2. Received: margin={margin}")
    if not scale > 0:
        raise ValueError(f"Expected a scale above 0. Received: scale={scale}")
