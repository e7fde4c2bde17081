"""The split by item: nothing of one item on both sides, the same for a seed, and none of the parts empty."""

import pytest

from prunelab.errors import InputError
from prunelab.tasks.price.bringing import splitting

ITEMS = [f"item {number}" for number in range(200)]


def test_parts_have_the_size_that_is_asked_for_and_seeds_draw_others():
    one, other = splitting.split(ITEMS, 10, 30, 1), splitting.split(ITEMS, 10, 30, 2)
    for parts in (one, other):
        counts = {part: list(parts.values()).count(part) for part in ("train", "validation", "test")}
        assert counts == {"train": 120, "validation": 20, "test": 60}
    assert one != other
    assert splitting.fingerprint(one) != splitting.fingerprint(other)


def test_neither_order_nor_repetition_of_rows_moves_an_item():
    shuffled = splitting.split(ITEMS[::-1] + ITEMS[:50], 10, 30, 1)
    assert shuffled == splitting.split(ITEMS, 10, 30, 1)
    assert splitting.fingerprint(shuffled) == splitting.fingerprint(splitting.split(ITEMS, 10, 30, 1))


def test_one_item_less_moves_few_others():
    before, after = splitting.split(ITEMS, 10, 30, 1), splitting.split(ITEMS[1:], 10, 30, 1)
    assert sum(before[item] != after[item] for item in ITEMS[1:]) <= 2


@pytest.mark.parametrize(("count", "empty"), [(0, "train"), (1, "validation"), (4, "validation"), (5, None)])
def test_a_part_without_an_item_is_refused(count, empty):
    if empty is None:
        assert set(splitting.split(ITEMS[:count], 10, 30, 1).values()) == {"train", "validation", "test"}
        return
    with pytest.raises(InputError, match=f"{count} items leave none for {empty} with validation_percent 10"):
        splitting.split(ITEMS[:count], 10, 30, 1)


def test_pictures_on_both_sides_are_counted_with_their_rows():
    rows = [
        {"sha256": "a", "part": "train", "where": "line 1"},
        {"sha256": "a", "part": "test", "where": "line 2"},
        {"sha256": "a", "part": "test", "where": "line 3"},
        {"sha256": "b", "part": "train", "where": "line 4"},
        {"sha256": "b", "part": "train", "where": "line 5"},
    ]
    found = splitting.doubled(rows)
    assert found["pictures"] == 1 and found["rows"] == 3
    assert found["examples"] == [{"sha256": "a", "train": ["line 1"], "test": ["line 2", "line 3"]}]
