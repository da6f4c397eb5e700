"""KerasHub's BERT and ViT, layer by layer: the one place that knows how their parts are named."""

from __future__ import annotations

from typing import Any

import keras


def encode(backbone: Any, embeddings: Any, padding_mask: Any = None) -> tuple[Any, list[Any]]:
    """Runs a `BertBackbone` from its token embeddings on.

    Args:
        backbone: The backbone.
        embeddings: float (B, T, D), what its `token_embedding` gives.
        padding_mask: int (B, T), 1 = real; None where all is.

    Returns:
        float (B, T, D), and for each layer float (B, N, T, T): how much each token (row) attends to each, by head.
    """
    segments = backbone.segment_embedding(keras.ops.zeros(keras.ops.shape(embeddings)[:2], "int32"))
    x = backbone.embeddings_add((embeddings, backbone.position_embedding(embeddings), segments))
    x = backbone.embeddings_layer_norm(x)
    attentions = []
    for layer in backbone.transformer_layers:
        x, scores = layer(x, padding_mask=padding_mask, training=False, return_attention_scores=True)
        attentions.append(scores)
    return x, attentions


def answer(model: Any, sequence: Any) -> Any:
    """Runs the head of a `BertTextClassifier`: float (B, T, D) to (B, C)."""
    return model.output_dense(model.backbone.pooled_dense(sequence[:, model.backbone.cls_token_index]))


def encode_image(backbone: Any, images: Any) -> tuple[Any, list[Any]]:
    """Runs a `ViTBackbone`.

    Args:
        backbone: The backbone.
        images: float (B, H, W, C).

    Returns:
        float (B, T, D), and for each layer the attention, float (B, N, T, T).
    """
    embed, encoder = backbone.get_layer("vit_patching_and_embedding"), backbone.get_layer("vit_encoder")
    x = embed(images)
    attentions = []
    for block in encoder.encoder_layers:
        normed = block.layer_norm_1(x)
        mixed, scores = block.mha(normed, normed, training=False, return_attention_scores=True)
        x = x + mixed
        x = x + block.mlp(block.layer_norm_2(x))
        attentions.append(scores)
    return encoder.layer_norm(x), attentions
