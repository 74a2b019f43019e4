import numpy as np
import pytest

from models.item2vec import _pair, item2vec, sequences


def checkerboard(users=60, items=20, length=12):
    """Even users take even items only, odd users odd ones; in the order of time."""
    generator = np.random.default_rng(0)
    user = np.tile(np.arange(users, dtype=np.int32), length)
    item = (2 * generator.integers(0, items // 2, users * length) + user % 2).astype(np.int32)
    return user, item


def test_checkerboard():
    user, item = checkerboard()
    vectors = item2vec(user, item, 22, 8, passes=10, seed=1)
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    similarity = unit @ unit.T
    same = (np.arange(20)[:, None] - np.arange(20)) % 2 == 0
    other = ~np.eye(20, dtype=bool)
    assert similarity[same & other].min() > similarity[~same].max()
    assert (vectors[20:] == 0).all()  # never seen
    assert np.isfinite(vectors).all()


def test_vectors_are_a_function_of_the_seed():
    user, item = checkerboard(users=10)
    first = item2vec(user, item, 20, 8, passes=1, seed=1)
    assert first.tobytes() == item2vec(user, item, 20, 8, passes=1, seed=1).tobytes()
    assert first.tobytes() != item2vec(user, item, 20, 8, passes=1, seed=2).tobytes()


def test_a_step_is_the_numeric_gradient():
    generator = np.random.default_rng(0)
    v, contexts = (generator.normal(size=shape) for shape in ((4,), (6, 4)))
    chosen, rate = np.array([2, 5, -1, 0]), 1e-3

    def loss(v, contexts):
        s = 1 / (1 + np.exp(-contexts @ v))
        return -np.log(s[2]) - np.log(1 - s[5]) - np.log(1 - s[0])

    def numeric(of):
        """Gradient of loss() by central differences, of its first or second argument."""
        arguments = [v.copy(), contexts.copy()]
        gradient = np.empty_like(arguments[of])
        for at in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [argument.copy() for argument in arguments]
                moved[of][at] += step
                ends.append(loss(*moved))
            gradient[at] = (ends[0] - ends[1]) / 2e-6
        return gradient

    new_v, new_contexts = v.astype(np.float32), contexts.astype(np.float32)
    _pair(new_v, new_contexts, chosen, rate, np.empty(4, np.float32))
    np.testing.assert_allclose((new_v - v) / rate, -numeric(0), atol=2e-3)
    np.testing.assert_allclose((new_contexts - contexts) / rate, -numeric(1), atol=2e-3)


def test_sequences_are_each_users_own():
    user = np.array([3, 1, -1, 3, 1, 3], np.int32)
    offsets, items = sequences(user, np.array([10, 11, 12, 13, 14, 15], np.int32))
    assert offsets.tolist() == [0, 2, 5]
    assert items.tolist() == [11, 14, 10, 13, 15]


@pytest.mark.parametrize("user", [[], [-1, -1], [0, 1]])
def test_nothing_to_pair_leaves_the_start(user):
    # No two items of one user: seen items keep small random vectors, the others zero.
    vectors = item2vec(np.array(user, np.int32), np.arange(len(user), dtype=np.int32), 5, 8, 2, 0)
    seen = [at for at, who in enumerate(user) if who >= 0]
    assert (np.abs(vectors[seen]) <= 1 / 16).all()
    assert (vectors[seen] != 0).any() == bool(seen)
    assert (np.delete(vectors, seen, axis=0) == 0).all()
