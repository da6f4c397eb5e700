"""TF Serving's gRPC interface: PredictionService, ModelService and the standard health service.

Source: tensorflow/serving, apis/prediction_service.proto and apis/model_service.proto (package tensorflow-serving-api).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from kerasbig.serve.messages import metadata_message, status_message
from kerasbig.serve.servables import Servable, ServingError, Version

SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")

_log = logging.getLogger("kerasbig.serve")

# TensorProto's field for each type. TF Serving answers with these and not with `tensor_content`, and clients read them by name.
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int8": "int_val",
    "int16": "int_val",
    "int32": "int_val",
    "uint8": "int_val",
    "uint16": "int_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "string": "string_val",
}


def grpc_server(servable: Servable, pool: ThreadPoolExecutor, *, max_request_bytes: int) -> tuple[grpc.Server, health.HealthServicer]:
    """Makes a gRPC server that is not bound to a port yet, and its health service.

    Args:
        servable: The loaded model.
        pool: Where Predict runs. Status, metadata and health have threads of their own and never wait for it.
        max_request_bytes: The longest message either way.
    """
    server = grpc.server(
        ThreadPoolExecutor(4, thread_name_prefix="kerasbig-grpc"),
        options=[
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.max_send_message_length", max_request_bytes),
            # Otherwise a second server on the same port would start and get half of the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Predictions(servable, pool, max_request_bytes), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(servable), server)
    health_service = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    for name in SERVICES:
        health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, health_service


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Writes an array with its values in the field of its type, as TF Serving does.

    Example:
        >>> list(to_proto(np.float32([1, 2])).float_val)
        [1.0, 2.0]
    """
    dtype = tf.as_dtype(array.dtype)
    if dtype.name not in _FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=tf.TensorShape(array.shape).as_proto())
    getattr(proto, _FIELDS[dtype.name]).extend(array.ravel().tolist())
    return proto


def to_array(name: str, proto: tensor_pb2.TensorProto, max_bytes: int) -> np.ndarray:
    """Reads a tensor of a request, and refuses a shape that a few bytes of message blow up to gigabytes.

    Raises:
        ServingError: INVALID_ARGUMENT, if the message is not a tensor of at most `max_bytes`.
    """
    sizes = [dimension.size for dimension in proto.tensor_shape.dim]
    try:
        itemsize = tf.as_dtype(proto.dtype).size or 1
    except TypeError:
        raise ServingError("INVALID_ARGUMENT", f"Expected input {name!r} to have a dtype. Received: {proto.dtype}.") from None
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in sizes) or math.prod(sizes) * itemsize > max_bytes:
        raise ServingError("INVALID_ARGUMENT", f"Expected input {name!r} to have a shape of at most {max_bytes} bytes. Received: {sizes}.")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise ServingError(
            "INVALID_ARGUMENT", f"Expected input {name!r} to be a whole tensor of shape {sizes}. Received: {error}"
        ) from None


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict and GetModelMetadata."""

    def __init__(self, servable: Servable, pool: ThreadPoolExecutor, max_request_bytes: int) -> None:
        self._servable, self._max_request_bytes = servable, max_request_bytes
        # gRPC runs a method in the pool it carries, as its own health service does; without one they would all share a pool.
        self.Predict = functools.partial(self._predict)
        self.Predict.experimental_thread_pool = pool  # type: ignore[attr-defined]

    def _predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:
        with _refusing(context):
            version = _version(self._servable, request.model_spec)
            signature = version.signature(request.model_spec.signature_name)
            wanted = list(request.output_filter)
            unknown = sorted(set(wanted) - signature.outputs.keys())
            if unknown or len(set(wanted)) != len(wanted):
                outputs = sorted(signature.outputs)
                raise ServingError(
                    "INVALID_ARGUMENT", f"Expected output_filter to name each of {outputs} at most once. Received: {wanted}."
                )
            results = signature.run({name: to_array(name, proto, self._max_request_bytes) for name, proto in request.inputs.items()})
            response = predict_pb2.PredictResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version.number
            response.model_spec.signature_name = signature.name
            for name in wanted or results:
                response.outputs[name].CopyFrom(to_proto(results[name]))
            return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> get_model_metadata_pb2.GetModelMetadataResponse:  # noqa: N802
        with _refusing(context):
            fields = list(request.metadata_field)
            if fields != ["signature_def"]:
                raise ServingError("INVALID_ARGUMENT", f"Expected metadata_field to be ['signature_def']. Received: {fields}.")
            return metadata_message(request.model_spec.name, _version(self._servable, request.model_spec))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _refuse(context, "Classify")

    def Regress(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _refuse(context, "Regress")

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _refuse(context, "MultiInference")


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> get_model_status_pb2.GetModelStatusResponse:  # noqa: N802
        with _refusing(context):
            name, number = _model(request.model_spec)
            return status_message(self._servable.selected(name, number))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _refuse(context, "HandleReloadConfigRequest")


def _version(servable: Servable, spec: model_pb2.ModelSpec) -> Version:
    """Returns the version that a request names."""
    return servable.version(*_model(spec))


def _model(spec: model_pb2.ModelSpec) -> tuple[str, int | None]:
    """Reads the model's name and version of a request."""
    if not spec.name:
        raise ServingError("INVALID_ARGUMENT", "Expected model_spec.name to be the model's name. Received: nothing.")
    if spec.version_label:
        raise ServingError("INVALID_ARGUMENT", f"Expected model_spec.version: this server has no labels. Received: {spec.version_label!r}.")
    return spec.name, spec.version.value if spec.HasField("version") else None


@contextlib.contextmanager
def _refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the right status when the block raises; a bug's details stay in the log."""
    try:
        yield
    except ServingError as error:
        code, message = error.code, str(error)
    except Exception:
        _log.exception("A request failed inside the server")
        code, message = "INTERNAL", "The server failed on this request. Its log says why."
    else:
        return
    # Outside of the handlers, since abort itself raises.
    context.abort(grpc.StatusCode[code], message)


def _refuse(context: grpc.ServicerContext, method: str) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED, f"Expected Predict, GetModelMetadata or GetModelStatus. This server does not answer {method}."
    )
