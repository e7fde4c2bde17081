import numpy as np
import pandas
import pytest

from prunelab.report import evolution


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.1, 0.3, 0.5], "grow"),
        ([-0.1, -0.3, -0.9], "grow"),
        ([0.5, 0.4, 0.1], "shrink"),
        ([0.3, 0.1, -0.4], "diverge"),
        ([0.30, 0.31, 0.29], "stay flat"),
        ([0.02, 0.01, -0.01], "stay flat"),  # a change of sign within the noise is none
    ],
)
def test_a_path_is_named_by_how_it_ends(values, kind):
    assert evolution.classify(np.array(values), spread=0.2) == kind


def test_a_path_is_measured_against_its_own_tensor():
    rows = []
    for tensor, scale in (("wide", 1.0), ("narrow", 0.01)):
        for index, (start, end) in enumerate([(1.0, 2.0), (-1.0, -2.0), (1.0, -1.0), (2.0, 1.0), (1.5, 1.5)]):
            rows += [(1, 100, tensor, index, start * scale), (2, 200, tensor, index, end * scale)]
    table = pandas.DataFrame(rows, columns=["tick", "step", "tensor", "index", "value"]).sample(frac=1, random_state=0)
    found = evolution.paths(table)
    kinds = {name: [path.kind for path in found if path.tensor == name] for name in ("wide", "narrow")}
    assert kinds["wide"] == kinds["narrow"] == ["grow", "grow", "diverge", "shrink", "stay flat"]
    assert found[0].steps.tolist() == [100, 200]
    assert evolution.shares(found) == {"grow": 0.4, "stay flat": 0.2, "shrink": 0.2, "diverge": 0.2}


def walk(tensor: str, index: int, values: list[float], named: bool = False) -> list[dict]:
    return [
        {"tick": tick, "step": 10 * tick, "tensor": tensor, "index": index, "value": value, "named": named}
        for tick, value in enumerate(values, start=1)
    ]


def test_weights_that_were_named_change_no_share():
    rows = walk("a", 0, [0.1, 1.0]) + walk("a", 1, [1.0, 0.1]) + walk("a", 2, [0.1, 2.0], named=True)
    found = evolution.paths(pandas.DataFrame(rows))
    assert [path.named for path in found] == [False, False, True]
    assert evolution.shares(found) == {"grow": 0.5, "stay flat": 0.0, "shrink": 0.5, "diverge": 0.0}
    assert evolution.shares([path for path in found if path.named])["grow"] == 0.0


def test_the_clearest_of_each_kind_are_picked_by_how_far_they_went():
    ends = [(0.1, 0.9), (0.1, 0.5), (0.1, 0.7), (0.5, 0.5), (0.5, 0.52), (-0.5, 0.6)]
    rows = [row for index, (first, last) in enumerate(ends) for row in walk("a", index, [first, last])]
    picked = evolution.typical(
        evolution.paths(pandas.DataFrame([*rows, *walk("a", 9, [0.1, 5.0], named=True)])), each=2
    )
    assert [(path.kind, path.index) for path in picked] == [
        ("grow", 0), ("grow", 2), ("stay flat", 3), ("stay flat", 4), ("diverge", 5),
    ]  # fmt: skip
