"""TF Serving's REST interface as a FastAPI application.

Source: TensorFlow Serving, "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kerasbig.serve.json_tensors import read_request, write_response
from kerasbig.serve.messages import metadata_message, status_message
from kerasbig.serve.servables import Servable, ServingError
from kerasbig.serve.streaming import event, pieces, read_stream_request

# TF Serving's own table (util/net_http), which is google.rpc's.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def rest_app(servable: Servable, pool: Executor, *, max_request_bytes: int) -> FastAPI:
    """Makes the application that answers `/v1/models/…`.

    Args:
        servable: The loaded model.
        pool: Where requests are read and models run, so that a slow one holds up nobody else.
        max_request_bytes: Longer bodies are refused with 413 before they are read.

    Returns:
        The application. It has no state of its own and serves no pages.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> application = rest_app(Servable("empty", {}), ThreadPoolExecutor(1), max_request_bytes=1024)
        >>> application.title
        'KerasBig'
    """
    app = FastAPI(title="KerasBig", docs_url=None, redoc_url=None, openapi_url=None)
    _add_predict(app, servable, pool, max_request_bytes)
    _add_information(app, servable)
    _add_errors(app)
    return app


def _add_predict(app: FastAPI, servable: Servable, pool: Executor, max_request_bytes: int) -> None:
    """Adds the two addresses of predict, and of stream, and a clear refusal for classify and regress."""

    def answer(model: str, number: int | None, body: bytes) -> bytes:
        request = read_request(body, servable.version(model, number))
        return write_response(request.signature.run(request.inputs), row=request.row)

    async def run(model: str, version: str | None, verb: str, request: Request) -> Response:
        number = _number(version)
        if verb not in ("predict", "stream"):
            raise ServingError("UNIMPLEMENTED", f"Expected :predict. This server does not answer :{verb}; send the same data to :predict.")
        body = await _read_body(request, max_request_bytes)
        if verb == "stream":
            return await _stream(servable, pool, model, number, body)
        content = await asyncio.get_running_loop().run_in_executor(pool, answer, model, number, body)
        return _json(content)

    @app.post("/v1/models/{model}:{verb}", response_model=None)
    async def predict(model: str, verb: str, request: Request) -> Response:
        return await run(model, None, verb, request)

    @app.post("/v1/models/{model}/versions/{version}:{verb}", response_model=None)
    async def predict_version(model: str, version: str, verb: str, request: Request) -> Response:
        return await run(model, version, verb, request)


async def _stream(servable: Servable, pool: Executor, model: str, number: int | None, body: bytes) -> Response:
    """Answers with server-sent events. What can be refused is refused before the first, by its status."""
    loop = asyncio.get_running_loop()

    def begin() -> tuple[str, Iterator[str]]:
        version = servable.version(model, number)
        written = pieces(version, read_stream_request(body, version))
        return next(written, ""), written

    first, written = await loop.run_in_executor(pool, begin)

    async def events() -> AsyncIterator[bytes]:
        piece: str | None = first
        try:
            while piece is not None:
                if piece:
                    yield event({"text": piece})
                piece = await loop.run_in_executor(pool, next, written, None)
            yield event({}, "done")
        except ServingError as error:
            yield event({"error": str(error)}, "error")

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _add_information(app: FastAPI, servable: Servable) -> None:
    """Adds status, metadata and the health check."""

    def status(model: str, version: str | None) -> Response:
        return _message(status_message(servable.selected(model, _number(version))))

    def metadata(model: str, version: str | None) -> Response:
        message = metadata_message(model, servable.version(model, _number(version)))
        # TF Serving writes the Any field as its content, without the "@type" that protobuf's printer adds.
        document = _dictionary(message)
        document["metadata"]["signature_def"].pop("@type", None)
        return _json(json.dumps(document, indent=1).encode())

    @app.get("/v1/models/{model}", response_model=None)
    async def model_status(model: str) -> Response:
        return status(model, None)

    @app.get("/v1/models/{model}/versions/{version}", response_model=None)
    async def version_status(model: str, version: str) -> Response:
        return status(model, version)

    @app.get("/v1/models/{model}/metadata", response_model=None)
    async def model_metadata(model: str) -> Response:
        return metadata(model, None)

    @app.get("/v1/models/{model}/versions/{version}/metadata", response_model=None)
    async def version_metadata(model: str, version: str) -> Response:
        return metadata(model, version)

    @app.get("/healthz", response_model=None)
    async def health() -> Response:
        return _json(b'{"status":"ok"}')


def _add_errors(app: FastAPI) -> None:
    """Gives every failure TF Serving's form: {"error": "…"}."""

    async def on_serving_error(_: Request, error: Exception) -> Response:
        return _error(HTTP_STATUS.get(error.code, 500) if isinstance(error, ServingError) else 500, str(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        if code in (404, 405) and request.url.path.startswith("/v1/"):
            message = f"Malformed request: {request.method} {request.url.path}. Expected GET /v1/models/NAME[/versions/N][/metadata]"
            return _error(400, f"{message} or POST /v1/models/NAME[/versions/N]:predict.")
        return _error(code, str(getattr(error, "detail", error)))

    async def on_disconnect(_: Request, __: Exception) -> Response:
        return _error(499, "The client closed the connection.")

    async def on_bug(_: Request, __: Exception) -> Response:
        # uvicorn writes the traceback to the log.
        return _error(500, "The server failed on this request. Its log says why.")

    app.add_exception_handler(ServingError, on_serving_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_bug)


async def _read_body(request: Request, limit: int) -> bytes:
    """Reads a body up to the limit; what announces more is not read at all."""
    too_long = HTTPException(
        413, f"Expected a body of at most {limit} bytes. Send fewer rows a request, or start the server with a larger max_request_bytes."
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_long
    return bytes(body)


def _number(version: str | None) -> int | None:
    """Reads a version from the address."""
    if version is None:
        return None
    # int64, as in TF Serving's protocol.
    if not (version.isascii() and version.isdecimal() and len(version) <= 18):
        raise ServingError("INVALID_ARGUMENT", f"Expected the version in the address to be a whole number. Received: {version!r}.")
    return int(version)


def _dictionary(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _message(message: Message) -> Response:
    return _json(json.dumps(_dictionary(message), indent=1).encode())


def _error(status: int, message: str) -> Response:
    return _json(json.dumps({"error": message}, ensure_ascii=False).encode(), status)


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")
