import os
from pathlib import Path

import numpy as np
import pytest

from models.mapped_file import _advise, map_file, read_scattered
from models.pages import touch
from models.tensor_file import map_tensor, read_tensors, write_tensors


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_001])
def test_has_the_bytes_of_the_file_when_its_name_is_gone(tmp_path, size):
    data, path = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8), tmp_path / "x"
    path.write_bytes(data.tobytes())
    mapped = map_file(path)
    path.unlink()
    touch(mapped)
    np.testing.assert_array_equal(mapped, data)
    part = mapped[size // 2 :]
    del mapped
    np.testing.assert_array_equal(part, data[size // 2 :])
    assert size == 0 or not part.flags.writeable


def test_takes_memory_once_it_is_touched_and_none_when_it_is_gone(tmp_path):
    path, size = tmp_path / "x", 64 << 20
    path.write_bytes(b"x" * size)

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))

    before = resident()
    mapped = map_file(path)
    assert resident() < before + size // 4
    touch(mapped)
    assert resident() >= before + size * 3 // 4
    del mapped
    assert resident() < before + size // 4


def scattered(path):
    mapped = map_file(path)
    touch(mapped)
    read_scattered(mapped)
    return mapped


WAYS = (
    scattered,
    lambda path: read_tensors(path)["a"],
    lambda path: map_tensor(path, "a"),
)


@pytest.mark.parametrize("mapping", WAYS, ids=("mapped", "read_tensors", "map_tensor"))
def test_a_page_that_was_pushed_out_comes_back_alone(tmp_path, mapping):
    path, size = tmp_path / "x", 64 << 20
    with path.open("wb") as file:
        write_tensors(file, {"a": np.full(size, 7, np.uint8)})
        os.fsync(file.fileno())  # the kernel drops no page that is not written yet

    def read_bytes() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))

    mapped = mapping(path)
    _advise(mapped.ctypes.data // 4096 * 4096, len(mapped), 21)  # MADV_PAGEOUT
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
    before, places = read_bytes(), np.random.default_rng(0).integers(4096, size - 4096, 20)
    assert (mapped[places] == 7).all()
    assert read_bytes() - before <= 2 * 20 * 4096


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "x")
