"""TF Serving's messages that both protocols answer with: REST as JSON, gRPC as they are."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from kerasbig.serve.servables import Version


def status_message(versions: Sequence[Version]) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the status of versions. What is loaded is available: a server with a broken version does not start."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        status = response.model_version_status.add(version=version.number, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        status.status.SetInParent()
    return response


def metadata_message(model: str, version: Version) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of a version as its SavedModel declares them."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = model
    response.model_spec.version.value = version.number
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature_def in version.signature_defs.items():
        signatures.signature_def[name].CopyFrom(signature_def)
    response.metadata["signature_def"].Pack(signatures)
    return response
