"""What XLA compiles in a long training with images: the whole step, or in bfloat16 what lies between the matrix products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# TensorFlow's name for the operations that XLA can fuse into one loop: products and convolutions are not among them.
FUSION_FLAGS = "--tf_xla_cpu_global_jit --tf_xla_ops_to_cluster=FUSIBLE"


def allow_fusing() -> None:
    """Lets `fused_between_products` work in this process, from TensorFlow's first function on; what was set before stays.

    Source: TensorFlow 2.21, `compiler/jit/mark_for_compilation_pass.cc`.
    """
    os.environ.setdefault("TF_XLA_FLAGS", FUSION_FLAGS)


@contextmanager
def fused_between_products() -> Iterator[None]:
    """Has XLA fuse activations, normalizations and sums of what is traced inside; needs `allow_fusing` before TensorFlow's first function.

    On a CPU each of these is a pass over the memory, in bfloat16 one that converts every number twice: half of a ViT's step.
    The products stay oneDNN's, whose bfloat16 is faster than XLA's.
    """
    import tensorflow as tf

    before = tf.config.optimizer.get_jit()
    tf.config.optimizer.set_jit("autoclustering")
    try:
        yield
    finally:
        tf.config.optimizer.set_jit(before or False)
