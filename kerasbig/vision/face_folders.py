"""A folder of photographs to a folder of faces, as `kerasbig cut-faces` makes it; killed, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from kerasbig.data.image_folders import Skipped, read_image_folder
from kerasbig.data.images import decode
from kerasbig.data.samples import user_cache
from kerasbig.data.sources import missing
from kerasbig.files import replacing_file, replacing_folder, require_new
from kerasbig.remote import is_remote
from kerasbig.vision.face_finding import align_face, face_finder, square_side

_RECORD = "found.jsonl"


@dataclass(frozen=True)
class CutFaces:
    """What `cut_faces` did.

    Attributes:
        written: How many faces were written.
        without: Photographs on which no face was found; nothing was written for them.
        several: Photographs with more than one face; the largest was taken.
        skipped: What is wrong with the files that were skipped.
    """

    written: int
    without: tuple[str, ...]
    several: tuple[str, ...]
    skipped: tuple[str, ...]


def cut_faces(
    photos: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    image_shape: tuple[int, int, int] = (112, 112, 3),
    least_side: int = 20,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> CutFaces:
    """Makes a folder of cut faces, which `kb.data.load` reads, out of a folder of photographs.

    Of each photograph the largest face is taken. Sub-folders and names stay; ".png" is added to them. What is cut waits in
    the user's cache folder until all is: the same call goes on where a killed one was, and searches again only what changed.

    Args:
        photos: A folder with a sub-folder of photographs for each person.
        to: The folder to make.
        image_shape: (side, side, 3) of the faces in pixels.
        least_side: Pixels across the smallest face to look for.
        skip_bad: Whether to skip and list files that are no images, instead of stopping.
        overwrite: Whether to replace `to`.
        progress: Whether to show a bar.

    Raises:
        FileNotFoundError: If `photos` is not there.
        FileExistsError: If `to` is, and `overwrite` is not given.
        ImportError: Without `pip install 'kerasbig[faces]'`.
        RuntimeError: On another Keras backend than TensorFlow.
        ValueError: If there is no photograph or no face on any, a file is no image, or an argument is out of range.

    Example:
        >>> import tempfile
        >>> cut_faces(tempfile.mkdtemp(), "faces")
        Traceback (most recent call last):
            ...
        ValueError: Expected ...
    """
    square_side(image_shape)
    require_new(to, overwrite=overwrite)
    folder = Path(photos)
    if not folder.is_dir():
        raise missing(folder)
    skipped = Skipped(skip_bad)
    paths = read_image_folder(folder, skipped).columns["image"]
    find = face_finder(least_side)
    waiting = _waiting_place(folder, to, image_shape, least_side)

    def cut(path: str) -> int:
        photo = decode(path)
        faces = find(photo)
        if faces:
            with replacing_file(_place(waiting, folder, path)) as file:
                Image.fromarray(align_face(photo, faces[0], image_shape)).save(file)
        return len(faces)

    shown = track(paths, "photographs", console=Console(stderr=True), transient=True, disable=not progress)
    counts = _each_once(shown, cut, waiting / _RECORD, skipped)
    found = [path for path, count in counts.items() if count]
    if found:
        with replacing_folder(to, overwrite=overwrite) as made:
            for path in found:
                if not _place(waiting, folder, path).is_file():
                    cut(path)  # a cache may be swept at any time
                target = _place(made, folder, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_place(waiting, folder, path), target)
    shutil.rmtree(waiting)
    if not found:
        raise ValueError(f"Expected a face on a photograph of {str(folder)!r}. Received: {len(paths)} without. See least_side.")
    without = tuple(path for path, count in counts.items() if count == 0)
    several = tuple(path for path, count in counts.items() if count > 1)
    return CutFaces(len(found), without, several, tuple(skipped.messages))


def _each_once(paths: Iterable[str], cut: Callable[[str], int], record: Path, skipped: Skipped) -> dict[str, int]:
    """Cuts what a killed call has not and returns how many faces each photograph has."""
    before, counts = _found_before(record), {}
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(record, "a", encoding="utf-8") as stream:
        for path in paths:
            state = _state(path)
            if state not in before:
                try:
                    before[state] = cut(path)
                except ValueError as error:
                    skipped.add(error)
                    continue
                stream.write(json.dumps({"state": state, "faces": before[state]}) + "\n")
                stream.flush()
            counts[path] = before[state]
    return counts


def _place(root: Path, photos: Path, path: str) -> Path:
    return root / f"{Path(path).relative_to(photos)}.png"


def _waiting_place(photos: Path, to: str | os.PathLike[str], image_shape: tuple[int, ...], least_side: int) -> Path:
    """Returns the folder in which the faces of one call wait for the last of them."""
    target = str(to) if is_remote(to) else str(Path(to).resolve())
    call = json.dumps([str(photos.resolve()), target, image_shape, least_side])
    return user_cache() / "cut-faces" / hashlib.sha256(call.encode()).hexdigest()[:16]


def _state(path: str) -> str:
    """Returns what tells a photograph from another, and from what it was before it changed."""
    facts = os.stat(path)
    return f"{facts.st_size} {facts.st_mtime_ns} {path}"


def _found_before(record: Path) -> dict[str, int]:
    """Returns how many faces a killed call found on each photograph; what it was writing when it was killed is left out."""
    counts: dict[str, int] = {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        counts[row["state"]] = row["faces"]
    return counts
