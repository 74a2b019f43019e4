import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.artifact import pack_keys, unpack_keys
from models.hashed_file import HashedFile, digest_of
from models.tensor_file import TensorFileError, map_tensor, read_tensors, write_tensors

DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_, np.int16]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), arrays, max_size=5))
def test_round_trip_and_safetensors_reads_it(tmp_path_factory, tensors):
    tensors = {k: v for k, v in tensors.items() if k != "__metadata__" and "\x00" not in k}
    path = tmp_path_factory.mktemp("t") / "a.safetensors"
    with path.open("wb", buffering=0) as raw, HashedFile(raw) as file:
        write_tensors(file, tensors)
        digest, size = file.hexdigest(), file.size
    data = path.read_bytes()
    assert (blake3(data).hexdigest(), len(data)) == (digest, size)
    assert digest_of(path) == digest
    assert digest_of(path, "sha256") == hashlib.sha256(data).hexdigest()
    mapped = {name: map_tensor(path, name) for name in tensors}
    for read in (read_tensors(path), mapped, safetensors.numpy.load(data)):
        assert read.keys() == tensors.keys()
        for name, array in tensors.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_reads_what_safetensors_writes_and_stays_the_same_bytes(tmp_path):
    tensors = {"b": np.arange(3, dtype=np.int32), "a": np.ones((2, 2), np.float64)}
    path = tmp_path / "x"
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"a": "b"}))
    np.testing.assert_array_equal(read_tensors(path)["b"], tensors["b"])
    one, two = io.BytesIO(), io.BytesIO()
    write_tensors(one, tensors)
    write_tensors(two, dict(reversed(tensors.items())))
    assert one.getvalue() == two.getvalue()
    # Golden bytes of format 1: the digest changes only together with a new format version.
    assert (
        hashlib.sha256(one.getvalue()).hexdigest()
        == "41c04a12ca410cbdaa006380502767ab02f7c89a26db58d56e7fdda30e372cac"
    )


def test_reads_only_what_is_named_and_each_into_memory_of_its_own(tmp_path):
    path = tmp_path / "x"
    tensors = {"a": np.arange(9), "b": np.ones((2, 3), np.float32), "c": np.zeros(4)}
    with path.open("wb") as file:
        write_tensors(file, tensors)
    read = read_tensors(path, ("b", "c", "none"))
    assert read.keys() == {"b", "c"}
    for name, array in read.items():
        np.testing.assert_array_equal(array, tensors[name])
        assert array.flags.owndata
        assert not array.flags.writeable
    mapped = map_tensor(path, "a")
    path.unlink()  # the bundle may go while it is served
    np.testing.assert_array_equal(mapped, tensors["a"])
    assert not mapped.flags.writeable


@pytest.mark.parametrize("shift", [0, 1])
def test_a_large_array_is_mapped_where_it_lies_as_its_type_has_to(tmp_path, shift):
    path, large = tmp_path / "x", np.arange(400_000, dtype=np.int64)
    saved = safetensors.numpy.save({"large": large})
    header = int.from_bytes(saved[:8], "little")
    padded = saved[8 : 8 + header] + b" " * (-header % 8 + shift)
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + saved[8 + header :])
    for array in (read_tensors(path)["large"], map_tensor(path, "large")):
        np.testing.assert_array_equal(array, large)
        assert array.flags.owndata == bool(shift)
        assert array.flags.aligned
        assert not array.flags.writeable


def test_a_tensor_that_is_not_there_cannot_be_mapped(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        write_tensors(file, {"a": np.arange(9), "b": np.ones(2)})
    with pytest.raises(TensorFileError, match="x: expected a tensor 'c', got a, b"):
        map_tensor(path, "c")


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_truncated_file_is_refused(tmp_path, cut):
    path = tmp_path / "x"
    with path.open("wb") as file:
        write_tensors(file, {"a": np.arange(9)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TensorFileError, match=r"x: .*expected"):
        read_tensors(path)


def test_unknown_dtype_is_refused():
    with pytest.raises(TensorFileError, match="complex128"):
        write_tensors(io.BytesIO(), {"a": np.zeros(1, complex)})


@given(st.lists(st.text(max_size=9)), st.integers(0, 3))
def test_keys_round_trip_also_from_a_slice(texts, start):
    keys = pa.array(texts, pa.string())[start:]
    assert unpack_keys(pack_keys(keys)).equals(pa.array(texts[start:], pa.string()))


@pytest.mark.parametrize("place", [0, 2, 70_000, 131_071, 131_072])
def test_offsets_of_keys_that_do_not_rise_to_the_end_of_their_bytes_are_refused(place):
    packed = pack_keys(pa.array([f"{n:06}" for n in range(131_072)]))
    for wrong in (packed["offsets"][place] + 2**32, -1, 1):
        offsets = packed["offsets"].copy()
        offsets[place] = wrong
        with pytest.raises(ValueError, match="offsets: expected rising offsets from 0 to 786432"):
            unpack_keys(packed | {"offsets": offsets})


def test_null_key_is_refused():
    with pytest.raises(ValueError, match="expected no null"):
        pack_keys(pa.array(["a", None]))


class Short(io.RawIOBase):
    """Takes seven bytes at a time, as the kernel takes 2 GiB."""

    def __init__(self) -> None:
        self.held = b""

    def write(self, part) -> int:
        self.held += bytes(part[:7])
        return len(part[:7])


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_everything_is_written_where_a_file_takes_less_at_a_time(parts):
    raw = Short()
    with HashedFile(raw) as file:
        for part in parts:
            file.write(part)
        assert file.hexdigest() == blake3(b"".join(parts)).hexdigest()
    assert raw.held == b"".join(parts)
    assert file.size == len(raw.held)


def test_what_cannot_be_written_is_raised(tmp_path):
    path = tmp_path / "x"
    path.touch()
    with (
        path.open("rb", buffering=0) as raw,
        HashedFile(raw) as file,
        pytest.raises(OSError, match="not open"),
    ):
        file.write(b"abc")
