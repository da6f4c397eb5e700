"""What two_hosts.sh asks: `look.py state RESUME.npz`, `look.py equal WEIGHTS.npz OTHER.npz`."""

from __future__ import annotations

import json
import sys

import numpy as np


def read(path: str) -> dict[str, np.ndarray]:
    """Reads every array, so that the checksum of each is checked."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def state(path: str) -> None:
    arrays = read(path)
    meta = json.loads(str(arrays["meta"]))
    assert len(arrays) == 1 + len(meta["shapes"]) + meta["metrics"], sorted(arrays)
    assert all(list(arrays[f"variable/{number}"].shape) == shape for number, shape in enumerate(meta["shapes"]))
    print(f"resume.npz is intact: {len(arrays)} arrays, epoch {meta['epoch']}, step {meta['step']}")


def equal(one: str, other: str) -> None:
    left, right = read(one), read(other)
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    names = sorted(left.keys() - {"history"})
    different = [name for name in names if not np.array_equal(left[name], right[name])]
    assert names, "no weights"
    assert not different, different
    print(f"weights are equal: {len(names)} arrays, {sum(left[name].size for name in names)} numbers")


if __name__ == "__main__":
    {"state": state, "equal": equal}[sys.argv[1]](*sys.argv[2:])
