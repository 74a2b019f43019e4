"""The protocol of benchmarks/peers: numbering, histories, ranks and intervals against plain loops."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.peers.metrics import best, expected_ranks, interval_by_user, per_target
from benchmarks.peers.peer import Known
from benchmarks.peers.popularity import HourlyPopularity
from benchmarks.peers.positives import LONGEST, Positives, read_positives, read_targets
from benchmarks.peers.replay import Plan


def table(path: Path, events: list[tuple[int, str, str, str, str]]) -> Path:
    columns = list(zip(*events, strict=True))
    names = ["ts_ms", "user_id", "item_id", "kind", "request_id"]
    pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path)
    return path


def stream(tmp_path: Path) -> Positives:
    rng = np.random.default_rng(3)
    events = []
    for n in range(600):
        user, ts_ms = f"u{rng.integers(4)}", int(rng.integers(200)) * 1000
        request = "" if n % 7 == 0 else f"{user}-{ts_ms // 5000}"
        events.append((ts_ms, user, f"i{rng.integers(30)}", "click", request))
    return read_positives(table(tmp_path / "e.parquet", sorted(events, key=lambda one: one[0])), ["click"])


def test_rows_are_numbered_by_time_then_file_order_after_dropping_repeats(tmp_path: Path) -> None:
    events = [
        (30, "u", "a", "click", "r2"),
        (10, "u", "b", "click", "r1"),
        (10, "v", "c", "click", ""),
        (10, "v", "c", "click", ""),  # without a request every row is its own
        (20, "u", "b", "long_view", "r1"),  # the same item of the same request
        (20, "u", "d", "impression", "r1"),
        (20, "u", "e", "long_view", "r1"),
    ]
    found = read_positives(table(tmp_path / "e.parquet", events), ["click", "long_view"])
    assert found.item_keys[found.item].tolist() == ["b", "c", "c", "e", "a"]
    assert found.ts_ms.tolist() == [10, 10, 10, 20, 30]
    assert found.item_keys[found.seen(3)].tolist() == []  # b belongs to the same request
    assert found.item_keys[found.seen(4)].tolist() == ["b", "e"]


def test_histories_equal_a_plain_loop(tmp_path: Path) -> None:
    log = stream(tmp_path)
    histories = log.moments(np.arange(len(log))).history
    for row in range(len(log)):
        wanted = [
            int(log.item[n])
            for n in range(row)
            if log.user[n] == log.user[row]
            and log.ts_ms[n] < log.ts_ms[row]
            and log.request[n] != log.request[row]
        ]
        assert log.seen(row).tolist() == wanted
        newest = wanted[-LONGEST:]
        assert histories[row].tolist() == [-1] * (LONGEST - len(newest)) + newest


def test_popularity_counts_what_is_older_than_the_hour(tmp_path: Path) -> None:
    hour = 3_600_000
    events = [(n * hour // 2, "u", f"i{n % 3}", "click", "") for n in range(12)]
    log = read_positives(table(tmp_path / "e.parquet", events), ["click"])
    scores = HourlyPopularity(log, half_life_days=1.0).scores(log.moments(np.array([5])))[0]
    # Row 5 is at 2.5 h: known are the rows before 2 h, that is 0..3, the newest at 1.5 h.
    weights = [2.0 ** -((1.5 - n / 2) / 24) for n in range(4)]
    wanted = {"i0": weights[0] + weights[3], "i1": weights[1], "i2": weights[2]}
    np.testing.assert_allclose(scores, [wanted[key] for key in log.item_keys], rtol=1e-6)


def test_ties_count_at_their_expected_rank_and_unscored_targets_are_missed() -> None:
    inf = np.inf
    scores = np.array([[3, 1, 1, 1, 0], [3, 1, 1, 1, -inf]], np.float32)
    rank = expected_ranks(scores, np.array([2, 4], np.int32))
    assert rank.tolist() == [2.0, inf]
    assert [one.tolist() for one in best(scores, 4)] == [[0, 1, 2, 3], [0, 1, 2, 3]]
    figures = per_target(np.array([2.0, 9.5, 10.0, 99.5, inf]))
    assert figures["recall@10"].tolist() == [1, 1, 0, 0, 0]
    assert figures["ndcg@100"] == pytest.approx(
        [1 / 2, 1 / np.log2(11.5), 1 / np.log2(12), 1 / np.log2(101.5), 0]
    )


def test_the_interval_draws_users_not_targets() -> None:
    values = np.repeat([1.0, 0.0], 500)
    by_target = interval_by_user(values, np.arange(1000, dtype=np.int32), seed=7)
    by_user = interval_by_user(values, np.repeat([0, 1], 500).astype(np.int32), seed=7)
    assert by_user == (0.0, 1.0)  # two users: often the same one twice
    assert by_target == pytest.approx((0.47, 0.53), abs=0.01)


def test_refits_start_at_the_start_and_spread_over_a_long_window(tmp_path: Path) -> None:
    log = stream(tmp_path)
    targets = np.arange(300, len(log))
    start_ms = int(log.ts_ms[300])
    hourly = Plan(log, start_ms, targets, refit_hours=10 / 3600)
    span = int(log.ts_ms[-1]) - start_ms
    assert hourly.edges().tolist() == list(range(start_ms, start_ms + span + 1, 10_000))
    few = Plan(log, start_ms, targets, refit_hours=10 / 3600, max_refits=3).edges()
    assert len(few) == 3
    assert few[0] == start_ms
    known = Known(log, log.before(start_ms), newest=0)
    assert log.ts_ms[known.rows].max() < start_ms
    assert set(known.candidates) == set(log.item[: known.upto])


def test_a_sample_does_not_depend_on_what_else_there_is(tmp_path: Path) -> None:
    log = stream(tmp_path)
    some, more = np.arange(200, 300), np.arange(150, 350)
    chosen = log.sample(more, 60, seed=7)
    within = chosen[(chosen >= 200) & (chosen < 300)]
    assert set(within) <= set(log.sample(some, 60, seed=7))


def test_targets_of_another_start_are_refused(tmp_path: Path) -> None:
    log = stream(tmp_path)
    pq.write_table(pa.table({"row": pa.array([4, 4, 500], pa.int64())}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="same events, kinds and start"):
        read_targets(tmp_path / "t.parquet", log, int(log.ts_ms[100]))
    assert read_targets(tmp_path / "t.parquet", log, 0).tolist() == [4, 500]
