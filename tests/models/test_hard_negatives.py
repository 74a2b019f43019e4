import numpy as np
import pytest
import torch

from models.hard_negatives import (
    HardNegatives,
    mixed,
    offline_hard,
    online_hard,
)

PRERANK, RANK = 0, 1


def rejects(n, seed):
    """Random rejects of 20 users as rows (user, item, stage, rank, ts)."""
    generator = np.random.default_rng(seed)
    return np.stack(
        [
            generator.integers(0, 20, n),
            generator.integers(0, 500, n),
            generator.integers(0, 2, n),
            generator.integers(0, 100, n),
            generator.integers(0, 1000, n),
        ],
        axis=1,
    )


def observe(pool, rows):
    user, item, stage, rank, ts = np.array(rows).T
    pool.observe(
        user.astype(np.int32), item.astype(np.int32), stage.astype(np.uint8), rank.astype(np.int32), ts
    )


def draw(pool, users, n, before, share, salt=0, keys=None):
    users = np.array(users, np.int32)
    keys = np.arange(len(users)) if keys is None else keys
    return pool.draw(users, n, np.broadcast_to(before, len(users)).astype(np.int64), keys, salt, share)


def brute(rows, user, stage, before):
    return sorted(item for u, item, s, _, ts in rows.tolist() if u == user and s == stage and ts < before)


def test_everything_before_the_moment_and_nothing_else():
    # Asked for more than there is, a row gets all of its user's earlier rejects of both stages, each once.
    pool, rows = HardNegatives(), np.concatenate([rejects(300, 1), rejects(1, 2), rejects(200, 3)])
    for part in (rows[:300], rows[300:301], rows[301:]):
        observe(pool, part)
    assert len(pool) == 501
    users, before = np.arange(25), np.arange(25) * 41
    drawn = draw(pool, users, 60, before, 0.5)
    for user in users:
        expected = sorted(brute(rows, user, PRERANK, before[user]) + brute(rows, user, RANK, before[user]))
        assert sorted(item for item in drawn[user].tolist() if item >= 0) == expected
    assert sum((row >= 0).sum() for row in drawn) > 100


def test_stages_are_drawn_by_their_share():
    pool = HardNegatives()
    observe(pool, [(1, item, PRERANK, 0, 5) for item in range(40)])
    observe(pool, [(1, 100 + item, RANK, 0, 5) for item in range(40)])
    for share, harder in ((0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)):
        drawn = draw(pool, [1] * 50, 8, 9, share)
        assert ((drawn >= 100).sum(1) == harder).all()
        assert all(len(set(row)) == 8 for row in drawn.tolist())  # without replacement
    drawn = draw(pool, [1] * 4000, 2, 9, 0.3)  # 0.6 of a place: by key
    assert (drawn >= 100).sum(1).mean() == pytest.approx(0.6, abs=0.04)
    np.testing.assert_allclose(np.bincount(drawn[drawn < 100], minlength=40), 1.4 * 4000 / 40, rtol=0.35)
    assert drawn.tolist() == draw(pool, [1] * 4000, 2, 9, 0.3).tolist()
    assert drawn.tolist() != draw(pool, [1] * 4000, 2, 9, 0.3, salt=1).tolist()
    swapped = draw(pool, [1] * 4000, 2, 9, 0.3, keys=np.arange(4000)[::-1])
    assert drawn.tolist() == swapped[::-1].tolist()  # by key, not by place


def test_a_short_stage_is_filled_from_the_other():
    pool = HardNegatives()
    observe(pool, [(3, 7, PRERANK, 0, 1), (3, 8, RANK, 0, 1), (3, 9, RANK, 1, 2)])
    assert sorted(draw(pool, [3], 3, 9, 0.0)[0].tolist()) == [7, 8, 9]
    assert sorted(draw(pool, [3], 3, 9, 1.0)[0].tolist()) == [7, 8, 9]
    assert sorted(draw(pool, [3], 2, 9, 1.0)[0].tolist()) == [8, 9]
    assert draw(pool, [3, -1, 4], 2, 0, 0.5).tolist() == [[-1, -1]] * 3  # the future, nobody, a stranger
    assert draw(HardNegatives(), [3], 2, 9, 0.5).tolist() == [[-1, -1]]


def test_positives_and_the_expired_leave():
    pool, rows = HardNegatives(), rejects(400, 4)
    observe(pool, rows)
    acted = rows[::7]
    pool.remove(acted[:, 0].astype(np.int32), acted[:, 1].astype(np.int32))
    gone = {(user, item) for user, item in acted[:, :2].tolist()}
    pool.drop_users(np.array([2, 5]))
    pool.drop_items(rows[3:9, 1])
    pool.trim(100)
    left = np.array(
        [
            row
            for row in rows.tolist()
            if (row[0], row[1]) not in gone
            and row[0] not in (2, 5)
            and row[1] not in rows[3:9, 1]
            and row[4] >= 100
        ]
    )
    assert len(pool) == len(left)
    drawn = draw(pool, range(20), 60, 2000, 0.5)
    for user in range(20):
        expected = sorted(brute(left, user, PRERANK, 2000) + brute(left, user, RANK, 2000))
        assert sorted(item for item in drawn[user].tolist() if item >= 0) == expected


def test_pool_survives_and_refuses_other_stages():
    pool, rows = HardNegatives(), rejects(100, 5)
    observe(pool, rows)
    state = pool.state()
    restored = HardNegatives.from_state(state)
    again = draw(restored, range(20), 4, 500, 0.5)
    assert again.tolist() == draw(pool, range(20), 4, 500, 0.5).tolist()
    assert sorted(state["rank"].tolist()) == sorted(rows[:, 3].tolist())
    observe(restored, rows)  # the restored pool goes on by itself
    assert (len(pool), len(restored)) == (100, 200)
    observe(pool, [(-1, 3, 0, 0, 0), (3, -1, 0, 0, 0)])
    assert len(pool) == 100
    with pytest.raises(ValueError, match="stage 2"):
        observe(pool, [(1, 1, 2, 0, 0)])


@pytest.mark.parametrize("by_user", [False, True])
def test_online_hard_is_the_argsort(by_user):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(30, 8, generator=generator) for _ in range(2))
    random = np.random.default_rng(0)
    item, user = random.integers(0, 12, 30), random.integers(-1, 6, 30)
    v = v[item]  # one vector per item
    places = online_hard(u, v.requires_grad_(), item, 3, user if by_user else None)
    for row in range(30):
        acted = {item[row]}
        if by_user and user[row] >= 0:
            acted |= set(item[user == user[row]])
        order = np.argsort(-(u[row] @ v.detach().T).numpy(), kind="stable")
        best = list(dict.fromkeys(int(item[at]) for at in order if item[at] not in acted))[:3]
        assert item[places[row]].tolist() == best


def test_online_hard_without_enough_others():
    u = v = torch.eye(3)
    assert online_hard(u, v, np.array([5, 5, 5]), 2).tolist() == [[-1, -1]] * 3
    assert online_hard(u[:1], v[:1], np.array([5]), 2).tolist() == [[-1, -1]]
    assert online_hard(u, v, np.array([5, 6, 5]), 2).tolist() == [[1, -1], [0, -1], [1, -1]]


def test_offline_hard_takes_its_ranks():
    generator = np.random.default_rng(0)
    scores = generator.random((50, 40), np.float32)
    scores[:, 30:] = -np.inf
    ranked = np.argsort(-scores, axis=1)
    target = ranked[:, 12].copy()  # at rank 13, inside the band
    keys = np.arange(50)
    picks = offline_hard(scores, target, (11, 20), 9, keys, 0)
    for row in range(50):
        assert sorted(picks[row]) == sorted(set(ranked[row, 10:20]) - {target[row]})
    fewer = offline_hard(scores, target, (11, 20), 4, keys, 0)
    assert fewer.tolist() == picks[:, :4].tolist()
    assert fewer.tolist() == offline_hard(scores, target, (11, 20), 4, keys, 0).tolist()
    assert fewer.tolist() != offline_hard(scores, target, (11, 20), 4, keys, 1).tolist()
    part = offline_hard(scores[20:], target[20:], (11, 20), 4, keys[20:], 0)
    assert part.tolist() == fewer[20:].tolist()  # chunks give the same
    # Only 30 items can be answered: ranks 26 to 50 hold five.
    short = offline_hard(scores, target, (26, 50), 8, keys, 0)
    assert ((short >= 0).sum(1) == 5).all()
    assert (offline_hard(scores, target, (101, 500), 2, keys, 0) == -1).all()


def test_offline_hard_is_even_over_the_band():
    scores = np.tile(np.arange(20, 0, -1, dtype=np.float32), (5000, 1))
    picks = offline_hard(scores, np.full(5000, 12), (11, 15), 1, np.arange(5000), 3)
    counts = np.bincount(picks.ravel(), minlength=20)
    assert counts[[10, 11, 13, 14]].sum() == 5000
    np.testing.assert_allclose(counts[[10, 11, 13, 14]], 1250, rtol=0.1)


@pytest.mark.parametrize(("mix", "n", "share"), [((1, 1), 8, 4), ((1, 1), 5, 2.5), ((100, 1), 10, 10 / 101)])
def test_mixes(mix, n, share):
    rows = 4000
    easy, hard = np.zeros((rows, n), np.int64), np.tile(np.arange(1, n + 1), (rows, 1))
    items, is_hard = mixed(easy, hard, mix, np.arange(rows), 0)
    assert is_hard.sum(1).mean() == pytest.approx(share, abs=0.04)
    assert set(is_hard.sum(1)) <= {int(np.floor(share)), int(np.ceil(share))}
    assert ((items > 0) == is_hard).all()


def test_mix_keeps_easy_ones_where_hard_ones_run_out():
    easy = np.array([[90, 91, 92, 93]] * 3)
    hard = np.array([[1, 2], [-1, 3], [-1, -1]])
    items, is_hard = mixed(easy, hard, (1, 1), np.arange(3), 0)
    assert items.tolist() == [[1, 2, 92, 93], [3, 91, 92, 93], [90, 91, 92, 93]]
    assert is_hard.sum(1).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="expected 2 hard negatives"):
        mixed(easy, hard[:, :1], (1, 1), np.arange(3), 0)
