from __future__ import annotations

import numpy as np

from chexmix_cli.core.evals.retrieval.pools import class_pool, draw_order, exclusive_class

CLASSES = ("A", "B", "C")


def test_a_draw_hangs_on_seed_and_id_alone():
    ids = [f"id{number}" for number in range(50)]
    order = draw_order(ids, 3)
    assert sorted(order.tolist()) == list(range(50))
    turned = draw_order(ids[::-1], 3)
    assert [ids[place] for place in order] == [ids[::-1][place] for place in turned]
    without = [one for one in ids if one != ids[order[0]]]
    assert [without[place] for place in draw_order(without, 3)] == [ids[place] for place in order[1:]]
    assert draw_order(ids, 4).tolist() != order.tolist()


def test_exclusive_means_one_present_and_no_other_in_doubt():
    assert exclusive_class({"A": 0, "B": 1, "C": None, "D": 1}, CLASSES) == 1
    assert exclusive_class({"A": 1, "B": 1}, CLASSES) is None
    assert exclusive_class({"A": 1, "B": -1}, CLASSES) is None
    assert exclusive_class({"A": 0}, CLASSES) is None


def test_the_pool_has_as_many_of_each_class_by_seed():
    ids = [f"id{number}" for number in range(90)]
    classes = [number % 4 if number % 4 < 3 else None for number in range(90)]
    pool = class_pool(ids, classes, per_class=10, seed=0)
    assert {number: len(places) for number, places in pool.items()} == {0: 10, 1: 10, 2: 10}
    for number, places in pool.items():
        assert all(classes[place] == number for place in places)
        assert places.tolist() == sorted(places.tolist())
    other = class_pool(ids, classes, per_class=10, seed=1)
    assert not np.array_equal(pool[0], other[0])
    assert len(class_pool(ids, classes, per_class=100, seed=0)[0]) == 23
