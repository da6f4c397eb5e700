"""Files that lie elsewhere: `gs://`, `s3://` and every other place that fsspec knows, worked on as whole local copies.

A Run or a training at such a place is written in a local folder first and copied file by file; object stores replace a
file as a whole or not at all, and a mark in a folder says that its copying has not ended.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

# Names in a local copy: where it is kept, and what is there already.
_LOCATION, _KEPT = ".location", ".kept.json"
_UNFINISHED = ".unfinished"
Location = str | os.PathLike[str]


def is_remote(path: Location) -> bool:
    """Returns whether a path is an address such as `gs://bucket/run`.

    Example:
        >>> is_remote("s3://bucket/run"), is_remote("runs/a")
        (True, False)
    """
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def require_local(path: Location) -> Path:
    """Returns a path as one of this machine.

    Raises:
        ValueError: If it is an address.

    Example:
        >>> require_local("runs/a").name
        'a'
    """
    if is_remote(path):
        raise ValueError(
            f"Expected a path on this machine. Received: {path!r}. Write it here and copy it there; Runs and data may be there."
        )
    return Path(path)


def exists(address: str) -> bool:
    """Returns whether there is a file, or a folder that holds something and was copied as a whole, at an address.

    Raises:
        ImportError: If the package for this kind of address is not installed.
        ConnectionError: If the place cannot be reached.

    Example:
        >>> exists("memory://nothing/here")
        False
    """
    with _Reached(address) as (filesystem, path):
        if filesystem.exists(f"{path}/{_UNFINISHED}"):
            return False
        return bool(filesystem.isfile(path)) or bool(filesystem.exists(path) and filesystem.ls(path, detail=False))


def fetch(address: str) -> Path:
    """Copies a file or a folder to this machine.

    Args:
        address: Where it is.

    Returns:
        The copy, under its own name, in a temporary folder that goes when the process ends.

    Raises:
        FileNotFoundError: If there is nothing.
        ImportError: If the package for this kind of address is not installed.
        ConnectionError: If the place cannot be reached.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe("/data/a.csv", b"text")
        >>> fetch("memory://data/a.csv").read_text()
        'text'
    """
    with _Reached(address) as (filesystem, path):
        if not filesystem.exists(path):
            raise FileNotFoundError(f"Expected a file or a folder at {address!r}, but there is none. Check the address.")
        copy = _temporary() / path.rstrip("/").rpartition("/")[2]
        filesystem.get(path, str(copy), recursive=True)
        return copy


def upload(folder: Path, address: str) -> None:
    """Copies a folder to an address, in place of what was there.

    Args:
        folder: A local folder.
        address: Where it goes.

    Raises:
        ImportError: If the package for this kind of address is not installed.
        ConnectionError: If the place cannot be reached.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text("{}")
        >>> upload(folder, "memory://runs/b")
        >>> exists("memory://runs/b")
        True
    """
    with _Reached(address) as (filesystem, path):
        if filesystem.isfile(path):
            filesystem.rm(path)
        before = filesystem.find(path) if filesystem.exists(path) else []
        filesystem.makedirs(path, exist_ok=True)
        filesystem.pipe_file(f"{path}/{_UNFINISHED}", b"")
        for name in before:
            if not name.endswith(_UNFINISHED):
                filesystem.rm(name)
        for name in _files(folder):
            _put(filesystem, folder / name, f"{path}/{name}")
        filesystem.rm(f"{path}/{_UNFINISHED}")


def checkout(location: Location) -> Path:
    """Returns a local folder to work in: the location itself, or a copy of what is at an address.

    Args:
        location: A folder, which need not be there yet, or an address. `commit` brings changes of the copy there.

    Raises:
        ImportError: If the package for this kind of address is not installed.
        ConnectionError: If the place cannot be reached.

    Example:
        >>> folder = checkout("memory://runs/c.training")
        >>> _ = (folder / "state").write_text("whole")
        >>> commit(folder)
        >>> (checkout("memory://runs/c.training") / "state").read_text()
        'whole'
    """
    if not is_remote(location):
        return Path(location)
    address = str(location)
    folder = fetch(address) if exists(address) else _temporary()
    (folder / _LOCATION).write_text(address, encoding="utf-8")
    _remember(folder, _states(folder))
    return folder


def commit(folder: Path) -> None:
    """Copies what changed in a folder of `checkout`, or in one inside of it, to where it is kept; nothing if that is here.

    Raises:
        ConnectionError: If the place cannot be reached.

    Example:
        >>> commit(Path(tempfile.mkdtemp()))
    """
    root = next((parent for parent in (folder, *folder.parents) if (parent / _LOCATION).is_file()), None)
    if root is None:
        return
    kept, now = json.loads((root / _KEPT).read_text(encoding="utf-8")), _states(root)
    with _Reached((root / _LOCATION).read_text(encoding="utf-8")) as (filesystem, path):
        for name in sorted(kept.keys() - now.keys()):
            filesystem.rm(f"{path}/{name}")
        for name, state in now.items():
            if kept.get(name) != state:
                _put(filesystem, root / name, f"{path}/{name}")
    _remember(root, now)


def remove(folder: Path) -> None:
    """Removes a folder of `checkout`, here and where it is kept.

    Example:
        >>> remove(Path("/a/folder/that/is/not/there"))
    """
    if (folder / _LOCATION).is_file():
        with _Reached((folder / _LOCATION).read_text(encoding="utf-8")) as (filesystem, path):
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
    shutil.rmtree(folder, ignore_errors=True)


class _Reached:
    """The file system of an address and the path in it; what goes wrong there names the address."""

    def __init__(self, address: str):
        self.address = address

    def __enter__(self) -> tuple[Any, str]:
        import fsspec

        try:
            filesystem, path = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            raise ImportError(f"Expected the package that reads {self.address!r}: {error}. Install it beside kerasbig.") from error
        except ValueError as error:
            raise ValueError(
                f"Expected an address that fsspec knows, such as gs:// or s3://. Received: {self.address!r} ({error})."
            ) from error
        # Another worker may have written meanwhile.
        filesystem.invalidate_cache()
        return filesystem, path

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Each kind of place has its own errors for an unknown host, a missing login or a full disk.
        if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
            raise ConnectionError(
                f"Expected to reach {self.address!r}. Received: {' '.join(str(error).split())}. Check the address, the network and your "
                "credentials."
            ) from error


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kerasbig-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _files(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.name not in (_LOCATION, _KEPT)
    )


def _states(folder: Path) -> dict[str, list[int]]:
    return {name: [(folder / name).stat().st_mtime_ns, (folder / name).stat().st_size] for name in _files(folder)}


def _remember(folder: Path, states: dict[str, list[int]]) -> None:
    (folder / _KEPT).write_text(json.dumps(states), encoding="utf-8")


def _put(filesystem: Any, file: Path, path: str) -> None:
    """Replaces one file; where that is not one step, as on a disk, by a rename."""
    if "file" in filesystem.protocol:
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(file), f"{path}.part")
        os.replace(f"{path}.part", path)
        return
    filesystem.put_file(str(file), path)
