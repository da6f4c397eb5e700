"""kerasbig serve."""

from __future__ import annotations

import click

from kerasbig.cli.quiet import load_tensorflow


@click.command()
@click.argument("bundle")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--rest-port", type=int, default=8501, show_default=True)
@click.option("--grpc-port", type=int, default=8500, show_default=True)
@click.option("--name", help="The model's name in addresses; by default the Bundle's folder name.")
def serve(bundle: str, host: str, rest_port: int, grpc_port: int, name: str | None) -> None:
    """Serves a Bundle over TF Serving's REST and gRPC, until it is stopped."""
    load_tensorflow()
    from kerasbig.serve import serve as serve_bundle

    serve_bundle(bundle, host=host, rest_port=rest_port, grpc_port=grpc_port, name=name)
