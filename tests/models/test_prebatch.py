from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest

from models.model_config import HistoryConfig, ModelConfig
from models.prebatch import SampleProducer
from models.prebatch_file import PrebatchFileError, read_prebatch, write_prebatch
from models.samplers import UnigramSampler
from models.samples import Samples

N, L, NEGATIVES = 37, 5, 4
ITEMS = np.arange(3, 15)


def samples_of(n=N, categories=3, numbers=2):
    generator = np.random.default_rng(0)
    return Samples(
        sequence=np.arange(100, 100 + n),
        ts_ms=generator.integers(0, 10**12, n),
        user=generator.integers(-1, 9, n).astype(np.int32),
        item=generator.choice(ITEMS, n).astype(np.int32),
        weight=generator.random(n, np.float32),
        request=generator.integers(-(2**62), 2**62, n),
        categories=generator.integers(-1, 9, (n, categories)).astype(np.int32),
        numbers=np.where(generator.random((n, numbers)) < 0.3, np.nan, 1.5).astype(np.float32),
    )


def histories(n=N):
    generator = np.random.default_rng(1)
    return tuple(generator.integers(-1, 15, (n, L)).astype(np.int32) for _ in range(2))


def producer(categories=2, numbers=1):
    """Item i has the categories 10 i, 10 i + 1, ... and the numbers i / 2, ..."""
    return SampleProducer(
        UnigramSampler(np.isin(np.arange(20), ITEMS), np.arange(20) ** 2, 0.75, seed=0),
        NEGATIVES,
        lambda items: (10 * items[:, None] + np.arange(categories)).astype(np.int32),
        lambda items: (items[:, None] / 2 + np.arange(numbers)).astype(np.float32),
    )


def flat(rows):
    """Every array of rows by name."""
    own = {field.name: getattr(rows, field.name) for field in fields(rows) if field.name != "samples"}
    return own | {field.name: getattr(rows.samples, field.name) for field in fields(Samples)}


def assert_same(left, right):
    assert flat(left).keys() == flat(right).keys()
    for name, array in flat(left).items():
        other = flat(right)[name]
        assert array.dtype == other.dtype, name
        np.testing.assert_array_equal(array, other, err_msg=name)


def test_rows_are_complete():
    samples, (history, age) = samples_of(), histories()
    batches = list(producer().batches(samples, history, age, 10))
    assert [len(rows) for rows in batches] == [10, 10, 10, 7]
    items = np.concatenate([rows.items for rows in batches])
    assert items.shape == (N, 1 + NEGATIVES)
    assert items[:, 0].tolist() == samples.item.tolist()
    assert (items[:, 1:] != samples.item[:, None]).all()
    assert set(items.ravel()) <= set(ITEMS)
    assert len(np.unique(items[:, 1:])) > 6
    categories = np.concatenate([rows.item_categories for rows in batches])
    numbers = np.concatenate([rows.item_numbers for rows in batches])
    np.testing.assert_array_equal(categories, np.stack([10 * items, 10 * items + 1], axis=2))
    np.testing.assert_array_equal(numbers, items[:, :, None] / 2)
    share = ITEMS**1.5 / (ITEMS**1.5).sum()
    expected = np.log(NEGATIVES * share[items - ITEMS[0]])
    np.testing.assert_allclose(np.concatenate([rows.log_expected for rows in batches]), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.concatenate([rows.history for rows in batches]), history)


def test_draws_are_a_function_of_the_step():
    samples, (history, age) = samples_of(), histories()
    first = list(producer().batches(samples, history, age, 10, step=7))
    for left, right in zip(first, producer().batches(samples, history, age, 10, step=7), strict=True):
        assert_same(left, right)
    alone = producer().rows(samples.take(slice(20, 30)), history[20:30], age[20:30], step=9)
    assert_same(alone, first[2])
    assert first[0].negatives.tolist() != first[1].negatives.tolist()


@pytest.mark.parametrize(("categories", "numbers"), [(3, 2), (0, 2), (3, 0), (0, 0)])
def test_round_trip(tmp_path, categories, numbers):
    samples, (history, age) = samples_of(categories=categories, numbers=numbers), histories()
    batches = list(producer(categories, numbers).batches(samples, history, age, 10))
    path = tmp_path / "rows.arrow"
    assert write_prebatch(path, batches, "bundle-7") == N
    read = list(read_prebatch(path, "bundle-7"))
    assert len(read) == len(batches)
    for left, right in zip(read, batches, strict=True):
        assert_same(left, right)
        assert all(array.flags.writeable for array in flat(left).values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.arrow"]


def test_format_version_1(tmp_path):
    """The file as any Arrow reader sees it; a change here is another version."""
    path = tmp_path / "rows.arrow"
    samples, (history, age) = samples_of(), histories()
    write_prebatch(path, producer().batches(samples, history, age, 10), "bundle-7")
    table = pa.ipc.open_file(path).read_all()
    assert {field.name: str(field.type).replace(" not null", "") for field in table.schema} == {
        "sequence": "int64",
        "ts_ms": "int64",
        "user": "int32",
        "item": "int32",
        "weight": "float",
        "request": "int64",
        "categories": "fixed_size_list<item: int32>[3]",
        "numbers": "fixed_size_list<item: float>[2]",
        "history": "fixed_size_list<item: int32>[5]",
        "history_age_s": "fixed_size_list<item: int32>[5]",
        "negatives": "fixed_size_list<item: int32>[4]",
        "item_categories": "fixed_size_list<item: int32>[10]",
        "item_numbers": "fixed_size_list<item: float>[5]",
        "log_expected": "fixed_size_list<item: float>[5]",
    }
    assert table.schema.metadata == {
        b"freshrecall.prebatch": b"1",
        b"freshrecall.origin": b"bundle-7",
        b"freshrecall.widths": b'{"categories": [3], "history": [5], "history_age_s": [5], '
        b'"item_categories": [5, 2], "item_numbers": [5, 1], "log_expected": [5], "negatives": [4], '
        b'"numbers": [2]}',
    }
    # Row-major: a row's positive first, then its negatives, each with all of its categories.
    row = table.slice(3, 1).to_pylist()[0]
    items = [row["item"], *row["negatives"]]
    assert row["item_categories"] == [10 * item + place for item in items for place in range(2)]


def rewritten(path, **metadata):
    """The same file with other metadata."""
    table = pa.ipc.open_file(path).read_all()
    changed = {key.encode(): value for key, value in metadata.items()}
    table = table.replace_schema_metadata(
        {key: changed.get(key.split(b".")[1], value) for key, value in table.schema.metadata.items()}
    )
    other = path.with_name("other.arrow")
    with pa.ipc.new_file(other, table.schema) as writer:
        writer.write_table(table)
    return other


def test_refusals(tmp_path):
    path = tmp_path / "rows.arrow"
    samples, (history, age) = samples_of(), histories()
    batches = list(producer().batches(samples, history, age, 10))
    write_prebatch(path, batches, "bundle-7")

    def refused(file, match, origin="bundle-7"):
        with pytest.raises(PrebatchFileError, match=match):
            list(read_prebatch(file, origin))

    refused(path, "bundle-8", origin="bundle-8")
    refused(rewritten(path, prebatch=b"2"), "version 2, this program reads up to 1")
    refused(rewritten(path, widths=b'{"history": [4]}'), "expected the columns")
    cut = tmp_path / "cut.arrow"
    cut.write_bytes(path.read_bytes()[:-200])
    refused(cut, "no whole Arrow file")
    foreign = tmp_path / "foreign.arrow"
    with pa.ipc.new_file(foreign, pa.schema([("item", pa.int32())])) as writer:
        writer.write_table(pa.table({"item": pa.array([1], pa.int32())}))
    refused(foreign, "no file of prebatched rows")


def test_a_failed_write_leaves_no_file(tmp_path):
    path = tmp_path / "rows.arrow"
    samples, (history, age) = samples_of(), histories()
    narrow = next(producer().batches(samples, history[:, 1:], age[:, 1:], 10))
    with pytest.raises(PrebatchFileError, match="rows of one model"):
        write_prebatch(path, [*producer().batches(samples, history, age, 10), narrow], "bundle-7")
    with pytest.raises(PrebatchFileError, match="at least one batch"):
        write_prebatch(path, [], "bundle-7")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        ("popularity", {"popularity": ({"half_life_h": 12},)}),
        ("hard_negatives", {"hard_negatives": ("rejects",)}),
        ("own_items", {"own_items": 20}),
        ("num_true", {"num_true": 2}),
        ("histories", {"histories": {"views": HistoryConfig(kinds=("view",))}}),
    ],
)
def test_what_a_row_cannot_hold_is_refused(asked, changes):
    with pytest.raises(ValueError, match=f"expected {asked} off"):
        ModelConfig(**{"popularity": (), "own_items": 0, **changes}).check_prebatch()
    with pytest.raises(ValueError, match=f"expected {asked} off"):
        ModelConfig(prebatch=True, **changes)


def test_a_plain_model_may_be_prebatched():
    ModelConfig(popularity=(), own_items=0).check_prebatch()
    ebr = ModelConfig(kind="ebr", prebatch=True)  # a kind's defaults give way
    assert (ebr.hard_negatives, ebr.negatives_per_row) == ((), 20)
    assert ModelConfig(prebatch=True).negative_source == "unigram"
    assert ModelConfig(prebatch=True, negative_source="uniform").negative_source == "uniform"
    with pytest.raises(ValueError, match=r"expected negative_source unigram.*got in_batch"):
        ModelConfig(prebatch=True, negative_source="in_batch")
