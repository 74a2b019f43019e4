from stream.watermark import Watermark


def test_minimum_over_partitions_that_are_not_idle():
    mark = Watermark(idle_s=5)
    mark.restart([0, 1], {})
    assert mark.value({}) is None
    mark.observe(0, 100)
    assert mark.value({0: 0.0, 1: 4.9}) is None  # partition 1 may still bring something
    assert mark.value({0: 0.0, 1: 5.0}) == 100
    mark.observe(1, 50)
    assert mark.value({0: 0.0, 1: 0.0}) == 100  # never back
    mark.observe(1, 120)
    mark.observe(0, 150)
    assert mark.value({0: 0.0, 1: 0.0}) == 120
    assert mark.value({0: 9.0, 1: 9.0}) == 150  # all idle: the stream ends at its newest event


def test_another_incarnation_starts_over_but_does_not_go_back():
    mark = Watermark(idle_s=5)
    mark.restart([0], {0: 100})
    assert mark.value({}) == 100
    mark.restart([0, 1], {})
    assert mark.value({}) == 100
    mark.observe(0, 300)
    assert mark.value({}) == 100
    mark.observe(1, 200)
    assert mark.value({}) == 200
