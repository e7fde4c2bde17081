"""What is asked beside the rows themselves: another item's picture, no words; and which rows are held out."""

import json

import numpy as np
import pytest

from prunelab.errors import InputError
from prunelab.tasks.price.judging import asking
from prunelab.tasks.price.judging.figures import Truth


def written(folder, rows: dict[str, list[dict]]):
    (folder / "price").mkdir(parents=True)
    for part, lines in rows.items():
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "price" / f"{part}.jsonl").write_text(text, encoding="utf-8")
    return folder


def houses(count: int, views: int = 2) -> list[dict]:
    return [
        {"id": f"{house}-{view}", "item": str(house), "picture": f"{house}-{view}.png", "price": 100.0 + house}
        for house in range(count)
        for view in range(views)
    ]


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_every_item_is_shown_another_items_picture(count):
    order = asking.derangement(count)
    assert sorted(order) == list(range(count)) and not (order == np.arange(count)).any()
    assert (order == asking.derangement(count)).all()


def test_a_single_item_has_no_other():
    assert asking.derangement(1).tolist() == [0]


def test_shuffled_pictures_are_of_one_other_item_in_turn_and_everything_else_stays():
    rows = houses(5)
    changed = asking.with_other_pictures(rows)
    assert [row | {"picture": ""} for row in changed] == [row | {"picture": ""} for row in rows]
    shown = [(row["item"], row["picture"].partition("-")[0]) for row in changed]
    assert all(own != other for own, other in shown)
    assert len(set(shown)) == 5  # both views of a house are of one other
    assert sorted(row["picture"] for row in changed) == sorted(row["picture"] for row in rows)


def test_items_with_fewer_pictures_lend_them_twice():
    rows = houses(2)[:3]  # two views of the first, one of the second
    assert [row["picture"] for row in asking.with_other_pictures(rows)] == ["1-0.png", "1-0.png", "0-0.png"]


def test_a_blank_text_keeps_the_picture_and_the_frame():
    (row,) = asking.without_words([{"id": "a", "prompt": "{picture} 3 rooms, 90 m². Price:"}],
                                  "{picture} {rooms} rooms, {area} m². {{sic}} Price:")  # fmt: skip
    assert row == {"id": "a", "prompt": "{picture}  rooms,  m². {sic} Price:"}


def test_all_pictures_of_an_item_are_held_out_together_and_the_mean_is_of_training(tmp_path):
    data = written(tmp_path, {"test": houses(10), "train": houses(3, 1)})
    held = asking.held_out(data, 8)
    assert [row["item"] for row in held.rows] == ["0", "0", "2", "2", "5", "5", "7", "7"]
    assert held.truth.mean == 101 and held.folder == tmp_path / "price"
    whole = asking.held_out(data, None)
    assert len(whole.rows) == 20 and whole.sha256 != held.sha256
    assert len(asking.held_out(data, 1).rows) == 2  # at least one item


def test_rows_that_are_not_there_are_told(tmp_path):
    with pytest.raises(InputError, match=r"test.jsonl: no such file"):
        asking.held_out(tmp_path, None)
    with pytest.raises(InputError, match="expected rows of train and test, found none"):
        asking.held_out(written(tmp_path, {"test": [], "train": []}), None)


def test_examples_are_of_different_items_from_the_lowest_price_to_the_highest():
    truth = Truth.of([5, 5, 1, 9, 3], ["a", "a", "b", "c", "d"], 4)
    assert asking.examples(truth).tolist() == [2, 4, 0, 3]
    many = Truth.of(range(100), range(100), 4)
    assert len(asking.examples(many)) == asking.EXAMPLES and asking.examples(many)[[0, -1]].tolist() == [0, 99]
