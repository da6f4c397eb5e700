"""A ViT whose patches are embedded by a few small convolutions: it needs less data and trains more steadily."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub


@keras.saving.register_keras_serializable(package="kerasbig")
class ConvStem(keras.layers.Layer):
    """Convolutions of 3 x 3 that halve the image until a pixel stands for a patch.

    Each is followed by layer normalization over the channels and GELU. (The paper has batch normalization and ReLU;
    statistics of a batch would differ between one device and several.)

    Args:
        hidden_dim: Channels at the end; each halving before it has half as many.
        patch_size: Pixels a patch, a power of 2.

    Source: Xiao et al., 2021, "Early convolutions help transformers see better", arXiv:2106.14881.
    """

    def __init__(self, hidden_dim: int, patch_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.patch_size = patch_size
        halvings = patch_size.bit_length() - 1
        self.convolutions = []
        self.normalizations = []
        for place in range(max(halvings, 1)):
            channels = max(8, hidden_dim >> (max(halvings, 1) - 1 - place))
            name, stride, policy = f"halving_{place + 1}", 2 if halvings else 1, self.dtype_policy
            convolution = keras.layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, dtype=policy, name=f"{name}_convolution")
            self.convolutions.append(convolution)
            self.normalizations.append(keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name=f"{name}_norm"))

    def build(self, input_shape: Any) -> None:
        """Builds the convolutions."""
        shape = input_shape
        for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            normalization.build(shape)
        self.built = True

    def call(self, images: Any) -> Any:
        """Embeds float (B, H, W, C) as (B, H / patch_size, W / patch_size, hidden_dim)."""
        x = images
        for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True):
            x = keras.ops.gelu(normalization(convolution(x)), approximate=False)
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns (B, H / patch_size, W / patch_size, hidden_dim)."""
        batch, height, width, _ = input_shape
        return batch, height // self.patch_size, width // self.patch_size, self.convolutions[-1].filters

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "patch_size": self.patch_size}


@keras.saving.register_keras_serializable(package="kerasbig")
class ConvStemViTBackbone(keras_hub.models.Backbone):
    """A `keras_hub.models.ViTBackbone` on what a `ConvStem` makes of the image, patch by patch.

    Args:
        image_shape: (height, width, channels).
        patch_size: Pixels a patch, a power of 2.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        hidden_dim: Width.
        mlp_dim: Width inside the feed-forward part.
        dropout_rate: Share of activations dropped in training.
        attention_dropout: Share of attention weights dropped in training.
        use_class_token: Whether a class token stands before the patches.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout: float = 0.0,
        use_class_token: bool = True,
        dtype: Any = None,
        **kwargs: Any,
    ):
        shared = {
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "mlp_dim": mlp_dim,
            "dropout_rate": dropout_rate,
            "attention_dropout": attention_dropout,
            "use_class_token": use_class_token,
        }
        height, width, _ = image_shape
        stem = ConvStem(hidden_dim, patch_size, dtype=dtype, name="conv_stem")
        inner = keras_hub.models.ViTBackbone(
            image_shape=(height // patch_size, width // patch_size, hidden_dim), patch_size=1, dtype=dtype, name="vit", **shared
        )
        inputs = keras.layers.Input(shape=image_shape, name="images")
        super().__init__(inputs=inputs, outputs=inner(stem(inputs)), dtype=dtype, **kwargs)
        self.image_shape = tuple(image_shape)
        self.patch_size = patch_size
        for name, value in shared.items():
            setattr(self, name, value)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        shape = ("image_shape", "patch_size", "num_layers", "num_heads", "hidden_dim", "mlp_dim")
        names = (*shape, "dropout_rate", "attention_dropout", "use_class_token")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasbig")
class ConvStemViTImageClassifier(keras_hub.models.ViTImageClassifier):
    """A `keras_hub.models.ViTImageClassifier` with a `ConvStemViTBackbone`, so that a preset of it is found again."""

    backbone_cls = ConvStemViTBackbone
