"""What stays of a Bundle that something is added to, and what may be replaced; docs/export.md has the rules."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasbig.export.manifests import CLASSES_FILE, MANIFEST_FILE, SINGLE_FILES, check_files, files_of, read_manifest


@dataclass(frozen=True)
class Kept:
    """What stays of the Bundle that is there already."""

    formats: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    metrics: dict[str, Any] | None = None


def plan(target: Path, formats: tuple[str, ...], version: int, mark: str, overwrite: bool) -> Kept:
    """Decides what of an existing Bundle stays, or refuses; see docs/export.md for the rules."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return Kept()
    if not (target / MANIFEST_FILE).is_file():
        raise FileExistsError(f"Expected {str(target)!r} to be new or a Bundle. It exists without {MANIFEST_FILE}: choose another folder.")
    manifest = read_manifest(target)
    same = manifest["model_fingerprint"] == mark
    singles = {name: entry for name, entry in manifest["formats"].items() if name != "saved_model"}
    versions = dict(manifest["saved_model_versions"])
    replaced = {str(version)} if "saved_model" in formats else set() if same else set(versions)
    there = [name for name in formats if name in singles]
    there += [f"saved_model version {version}"] if "saved_model" in formats and str(version) in versions else []
    if there and not overwrite:
        raise FileExistsError(
            f"Expected {str(target)!r} to be without {' and '.join(there)}. "
            "Choose another name or version, or pass overwrite (--overwrite)."
        )
    kept = {name: entry for name, entry in singles.items() if same and name not in formats}
    stale = sorted({*singles, *(["saved_model"] if versions and "saved_model" not in formats else [])} - set(formats))
    if not same and stale and not overwrite:
        raise FileExistsError(
            f"Expected one model in {str(target)!r}, which holds {' and '.join(stale)} of another. "
            "Choose another name, or pass overwrite (--overwrite) to remove them."
        )
    kept_versions = {number: entry for number, entry in versions.items() if number not in replaced}
    if not same and any(int(number) > version for number in kept_versions):
        raise ValueError(f"Expected a version above {max(map(int, kept_versions))} for a different model. Received: version={version}.")
    files = {path: digest for number in kept_versions for path, digest in files_of(manifest, "saved_model", int(number)).items()}
    for name in kept:
        files |= files_of(manifest, name)
    dropped = frozenset({*replaced, *(file for name in singles if name not in kept for file in SINGLE_FILES[name])})
    return Kept(kept, kept_versions, files, dropped, manifest["metrics"] if same else None)


def carry_over(old: Path, stage: Path, kept: Kept) -> None:
    """Links what stays into the new folder, after a look at whether it is still what was once checked."""
    if kept.files:
        check_files(old, kept.files)
    for child in old.iterdir() if old.is_dir() else ():
        if child.name in kept.dropped or child.name in (MANIFEST_FILE, CLASSES_FILE):
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.copytree(child, stage / child.name, symlinks=True, copy_function=_link)
        else:
            _link(str(child), str(stage / child.name))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        # Some file systems have no hard links; a full disk fails again here, and is reported.
        shutil.copy2(source, target, follow_symlinks=False)
