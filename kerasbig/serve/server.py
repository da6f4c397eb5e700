"""Starts and stops the REST and the gRPC server of one model."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import grpc
import uvicorn

from kerasbig.serve.grpc_service import grpc_server
from kerasbig.serve.rest import rest_app
from kerasbig.serve.servables import Servable, load, warm_up

DRAIN_SECONDS = 20.0


class Server:
    """A running server. Made by `start`; stop it with `stop` or by leaving its `with` block.

    Attributes:
        name: The model's name in requests.
        versions: The versions served, newest last.
        host: The address listened on.
        rest_port: The port of REST; never 0.
        grpc_port: The port of gRPC; never 0.
    """

    def __init__(self, servable: Servable, *, host: str, rest_port: int, grpc_port: int, threads: int, max_request_bytes: int) -> None:
        self.name = servable.name
        self.versions = tuple(sorted(servable.versions))
        self.host = host
        rest_socket = _bind(host, rest_port, "rest_port")
        try:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kerasbig-predict")
            self._grpc, self._health = grpc_server(servable, self._pool, max_request_bytes=max_request_bytes)
            self.grpc_port = _bind_grpc(self._grpc, host, grpc_port)
        except BaseException:
            rest_socket.close()
            raise
        self.rest_port = int(rest_socket.getsockname()[1])
        config = uvicorn.Config(
            rest_app(servable, self._pool, max_request_bytes=max_request_bytes),
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
        )
        self._rest = uvicorn.Server(config)
        # uvicorn takes over the signals only in the main thread, so here it never does.
        self._thread = threading.Thread(target=self._rest.run, kwargs={"sockets": [rest_socket]}, name="kerasbig-rest", daemon=True)
        self._stopping = threading.Lock()
        self._start()

    @property
    def rest_url(self) -> str:
        """The model's address in REST: add `:predict`, or `/metadata`."""
        return f"http://{_in_url(self.host)}:{self.rest_port}/v1/models/{self.name}"

    @property
    def grpc_address(self) -> str:
        """The target of a gRPC channel."""
        return f"{_in_url(self.host)}:{self.grpc_port}"

    @property
    def running(self) -> bool:
        """Whether both servers accept requests."""
        return self._thread.is_alive() and not self._rest.should_exit

    def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Takes no new requests, waits for those under way, and returns. A second call does nothing.

        Args:
            drain_seconds: How long to wait before requests under way are broken off.
        """
        with self._stopping:
            if self._rest.should_exit:
                return
            self._health.enter_graceful_shutdown()
            self._rest.config.timeout_graceful_shutdown = max(0, round(drain_seconds))
            self._rest.should_exit = True
            stopped = self._grpc.stop(drain_seconds)
            self._thread.join(drain_seconds + 5)
            stopped.wait(drain_seconds + 5)
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        """Starts both, and returns when both answer."""
        self._grpc.start()
        self._thread.start()
        while not self._rest.started:
            if not self._thread.is_alive():
                self._grpc.stop(0)
                raise RuntimeError("Expected the REST server to start, but it ended at once. Its log says why.")
            time.sleep(0.005)


def start(
    path: str | os.PathLike[str],
    *,
    rest_port: int = 8501,
    grpc_port: int = 8500,
    host: str = "127.0.0.1",
    name: str | None = None,
    versions: Sequence[int] | None = None,
    threads: int | None = None,
    max_request_bytes: int = 64 * 2**20,
) -> Server:
    """Loads the SavedModels of a folder and serves them beside the running program.

    Args:
        path: A Bundle, or any folder with `1/saved_model.pb`, `2/saved_model.pb`, … A SavedModel is code: serve only what you trust.
        rest_port: The port of REST. 0 takes any free one.
        grpc_port: The port of gRPC. 0 takes any free one.
        host: The address to listen on. "0.0.0.0" is every network, without any password.
        name: The model's name in requests. The folder's name if None.
        versions: The versions to serve. All if None.
        threads: How many requests run at once; the others wait. The number of cores plus 4 if None.
        max_request_bytes: The longest request either protocol takes.

    Returns:
        The running server; both protocols already answer.

    Raises:
        FileNotFoundError: If the folder has no SavedModel, or lacks a version asked for.
        ValueError: If a file differs from the Bundle's manifest, a SavedModel is broken, or an argument is out of range.
        OSError: If a port is in use or the address is not this machine's.

    Example:
        >>> import tempfile, urllib.request
        >>> import tensorflow as tf
        >>> module = tf.Module()
        >>> module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], name="x")])
        >>> folder = Path(tempfile.mkdtemp()) / "double"
        >>> tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": module.double})
        >>> with start(folder, rest_port=0, grpc_port=0) as server:
        ...     urllib.request.urlopen(server.rest_url + ":predict", b'{"instances": [1, 2]}').read()
        b'{"predictions":[2.0,4.0]}'
    """
    _check_options(rest_port, grpc_port, threads, max_request_bytes)
    # Loading takes seconds: a port in use is said before it.
    for option, port in (("rest_port", rest_port), ("grpc_port", grpc_port)):
        _bind(host, port, option).close()
    servable = load(Path(path), name=name, versions=versions)
    warm_up(servable)
    threads = (os.cpu_count() or 1) + 4 if threads is None else threads
    return Server(servable, host=host, rest_port=rest_port, grpc_port=grpc_port, threads=threads, max_request_bytes=max_request_bytes)


def serve(
    path: str | os.PathLike[str],
    rest_port: int = 8501,
    grpc_port: int = 8500,
    *,
    host: str = "127.0.0.1",
    name: str | None = None,
    versions: Sequence[int] | None = None,
    threads: int | None = None,
    max_request_bytes: int = 64 * 2**20,
) -> None:
    """Serves a folder's SavedModels until SIGINT or SIGTERM, then finishes the requests under way and returns.

    One line on standard error says when it is ready and where. A second signal ends the process at once.

    Args:
        path: As for `start`, like all the others.
        rest_port: The port of REST.
        grpc_port: The port of gRPC.
        host: The address to listen on.
        name: The model's name in requests.
        versions: The versions to serve.
        threads: How many requests run at once.
        max_request_bytes: The longest request.

    Raises:
        RuntimeError: If called outside the main thread, where signals cannot be received; use `start` there.

    Example:
        kb.serve.serve("saved_models/sentiment", rest_port=8501, grpc_port=8500)
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Expected serve to run in the main thread, which receives the signals. Use kb.serve.start elsewhere.")
    ending = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        ending.set()
        # A model call cannot be broken off from Python; the system's own handler ends the process in the middle of it.
        for number in previous:
            signal.signal(number, signal.SIG_DFL)

    previous: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, on_signal)
    server: Server | None = None
    try:
        server = start(
            path,
            rest_port=rest_port,
            grpc_port=grpc_port,
            host=host,
            name=name,
            versions=versions,
            threads=threads,
            max_request_bytes=max_request_bytes,
        )
        _say(f"ready: {server.name}, versions {list(server.versions)} · REST {server.rest_url}:predict · gRPC {server.grpc_address}")
        while not ending.wait(1.0):
            if not server.running:
                raise RuntimeError("Expected the REST server to run until a signal, but it ended. Its log says why.")
        _say("stopping: finishing the requests under way")
        server.stop()
    finally:
        if server is not None:
            server.stop(0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _check_options(rest_port: int, grpc_port: int, threads: int | None, max_request_bytes: int) -> None:
    """Raises if a number is out of range."""
    for option, port in (("rest_port", rest_port), ("grpc_port", grpc_port)):
        if not 0 <= port <= 65535:
            raise ValueError(f"Expected {option} to be between 0 (any free one) and 65535. Received: {port}.")
    if rest_port == grpc_port != 0:
        raise ValueError(f"Expected REST and gRPC to have different ports. Received: rest_port={rest_port}, grpc_port={grpc_port}.")
    if threads is not None and threads < 1:
        raise ValueError(f"Expected threads to be at least 1. Received: {threads}.")
    if max_request_bytes < 1:
        raise ValueError(f"Expected max_request_bytes to be at least 1. Received: {max_request_bytes}.")


def _bind(host: str, port: int, option: str) -> socket.socket:
    """Returns a socket that listens on the address, or says which port is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _os_error(error, f"Expected host to be an address of this machine. Received: {host!r} ({error.strerror}).") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Bound alone would let a second program bind the same port.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise _os_error(error, f"Expected host to be an address of this machine. Received: {host!r}.") from None
        reason = f"Expected port {port} of {host} to be free for {option}: {error.strerror}. Pass another {option}, or 0 for any free one."
        raise _os_error(error, reason) from None
    return listener


def _os_error(error: OSError, message: str) -> OSError:
    """Makes an error that reads as one sentence and keeps its number."""
    told = OSError(message)
    told.errno = error.errno
    return told


def _bind_grpc(server: grpc.Server, host: str, port: int) -> int:
    """Binds gRPC and returns its port, with the same message as REST if that fails."""
    _bind(host, port, "grpc_port").close()
    try:
        return int(server.add_insecure_port(f"{_in_url(host)}:{port}"))
    except RuntimeError as error:
        raise OSError(f"Expected port {port} of {host} to be free for grpc_port. Pass another grpc_port, or 0 for any free one.") from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _say(line: str) -> None:
    print(f"kerasbig serve: {line}", file=sys.stderr, flush=True)
