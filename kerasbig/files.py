"""Writes that are whole or not there: the one place for temporary names and renames. Folders may be at an address."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kerasbig import remote


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it onto `path` when the block succeeds.

    The old file survives any failure, a full disk included; the temporary file never stays behind.

    Args:
        path: The file to write or replace. Its folder is made if missing.

    Yields:
        A path with the same suffix, in the same folder, that the block must write.

    Raises:
        ValueError: If `path` is an address such as `gs://bucket/file`.

    Example:
        >>> import pathlib, tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing_file(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    target = remote.require_local(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept whole (`.weights.h5`), since Keras chooses the format by it.
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path` and renames it to `path` when the block succeeds.

    Args:
        path: The folder to write, or an address such as `gs://bucket/run`, to which it is copied.
        overwrite: Whether an existing `path` may be replaced. It is kept until the new one is complete.

    Yields:
        An empty folder that the block fills.

    Raises:
        FileExistsError: If `path` exists, is not empty and `overwrite` is False. Raised before the block runs.

    Example:
        >>> import pathlib, tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "run"
        >>> with replacing_folder(target) as temporary:
        ...     _ = (temporary / "a.txt").write_text("whole")
        >>> sorted(p.name for p in target.iterdir())
        ['a.txt']
    """
    require_new(path, overwrite=overwrite)
    if remote.is_remote(path):
        with tempfile.TemporaryDirectory(prefix="kerasbig-") as local:
            yield Path(local)
            remote.upload(Path(local), str(path))
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        old = target.with_name(f".{target.name}-old-{os.getpid()}")
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_new(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raises if `path` holds something and may not be overwritten.

    Raises:
        FileExistsError: If `path` is a file or a folder that is not empty, here or at an address, and `overwrite` is False.

    Example:
        >>> require_new("/a/folder/that/is/not/there", overwrite=False)
    """
    if overwrite:
        return
    if remote.is_remote(path):
        there = remote.exists(str(path))
    else:
        target = Path(path)
        there = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if there:
        raise FileExistsError(
            f"Expected {os.fspath(path)!r} to be new, but it exists. Choose another name or pass overwrite (--overwrite)."
        )


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "empty"
        >>> file.touch()
        >>> sha256(file)[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Asks the system to put a file on the disk, so that a rename never outlives its content."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
