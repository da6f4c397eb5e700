"""kerasbig check and kerasbig samples."""

from __future__ import annotations

import importlib
import os
import platform
from importlib import metadata, util
from typing import Any

import click

from kerasbig.cli.quiet import load_tensorflow

# What each part of the package needs: distribution, module to look for, and the part.
NEEDS = (
    ("tensorflow", "tensorflow", "everything"),
    ("keras", "keras", "everything"),
    ("keras-hub", "keras_hub", "builders"),
    ("tensorflow-text", "tensorflow_text", "tokenizers, SavedModel"),
    ("tokenizers", "tokenizers", "learning vocabularies"),
    ("tensorflow-model-optimization", "tensorflow_model_optimization", "pruning"),
    ("h5py", "h5py", "HDF5"),
    ("ai-edge-litert", "ai_edge_litert", "LiteRT"),
    ("pyarrow", "pyarrow", "Parquet"),
    ("pillow", "PIL", "images"),
)
# The same for what comes with an extra, and the extra's name instead of the part.
EXTRAS = (
    ("fastapi", "fastapi", "serve"),
    ("tensorflow-serving-api", "tensorflow_serving", "serve"),
    ("lime", "lime", "explain"),
    ("shap", "shap", "explain"),
    ("scikit-image", "skimage", "explain"),
    ("mtcnn", "mtcnn", "faces"),
    ("onnx", "onnx", "onnx"),
    ("onnxruntime", "onnxruntime", "onnx"),
    ("tf2onnx", "tf2onnx", "onnx"),
)
KERAS_FLOOR = (3, 15, 1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(as_json: bool) -> None:
    """Prints versions and devices, and what works here and what is missing.

    What an extra brings may be missing: a line says how to install it.
    """
    from kerasbig.cli.output import print_json, print_table

    load_tensorflow()
    packages = {name: _version(name) for name, _, _ in (*NEEDS, *EXTRAS)}
    absent = sorted({extra for name, module, extra in EXTRAS if packages[name] is None or util.find_spec(module) is None})
    findings = _findings(packages, absent)
    facts = {"kerasbig": metadata.version("kerasbig"), "python": platform.python_version(), "cores": str(os.cpu_count())}
    failed = [name for name, works in findings.items() if works != "works"]
    if as_json:
        print_json({**facts, "packages": packages, "checks": findings, "extras_missing": absent, "ok": not failed})
    else:
        rows = [["python", platform.python_version(), "everything"], ["kerasbig", facts["kerasbig"], ""]]
        rows += [[name, packages[name] or "missing", part] for name, _, part in NEEDS]
        rows += [[name, packages[name] or "not installed", f"extra {extra}"] for name, _, extra in EXTRAS]
        print_table("Versions", ["package", "version", "for"], rows)
        print_table("Checks", ["what", "result"], [[name, result] for name, result in findings.items()])
        for extra in absent:
            click.echo(f"Not installed: extra {extra}. Run: pip install 'kerasbig[{extra}]'")
    if failed:
        raise click.exceptions.Exit(1)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _findings(packages: dict[str, str | None], absent: list[str]) -> dict[str, str]:
    """Tries each part in a small way and says "works", or what is wrong."""
    findings = {}
    for name, module, part in NEEDS:
        if packages[name] is None or util.find_spec(module) is None:
            findings[f"{name} ({part})"] = "missing"
    if packages["keras"] and tuple(int(part) for part in packages["keras"].split(".")[:3]) < KERAS_FLOOR:
        findings["keras"] = f"Expected {'.'.join(map(str, KERAS_FLOOR))} or later. Received: {packages['keras']}"
    attempts: dict[str, Any] = {"devices": _devices, "precision": _precision, "pruning": _pruning}
    if "serve" not in absent:
        attempts["serving"] = _serving
    for name, attempt in attempts.items():
        try:
            findings.update(attempt())
        except Exception as error:
            findings[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return findings


def _devices() -> dict[str, str]:
    import keras
    import tensorflow as tf

    names = [device.name for device in tf.config.list_logical_devices()]
    return {f"TensorFlow on {', '.join(names)}": "works", f"Keras backend {keras.backend.backend()}": "works"}


def _precision() -> dict[str, str]:
    from kerasbig.distribute import fastest_precision

    found = fastest_precision()
    return {f"training in {found.policy} (float32 {found.float32_ms:.1f} ms, bfloat16 {found.bfloat16_ms:.1f} ms a layer)": "works"}


def _pruning() -> dict[str, str]:
    importlib.import_module("kerasbig.compress.pruning")
    return {"pruning (TF-MOT on Keras 3)": "works"}


def _serving() -> dict[str, str]:
    importlib.import_module("kerasbig.serve.server")
    return {"serving (REST and gRPC)": "works"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def samples(as_json: bool) -> None:
    """Lists the named data sets and presets."""
    from kerasbig.cli.output import print_json, print_table
    from kerasbig.data import samples as all_samples

    if as_json:
        fields = ("name", "kind", "description", "licence", "source", "size")
        print_json({"samples": [{field: getattr(sample, field) for field in fields} for sample in all_samples()]})
    else:
        rows = [[sample.name, sample.kind, sample.size, sample.licence, sample.description] for sample in all_samples()]
        print_table("Samples", ["name", "kind", "download", "licence", "what"], rows)
