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
