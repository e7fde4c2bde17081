"""Steps of recipes that decide something themselves."""

from prunelab.making import steps
from tests.helpers import synthetic


def test_the_floor_has_the_variant_s_config_and_the_tokens_of_training_and_recovery(tmp_path):
    settings = synthetic.settings(tmp_path)
    changed = steps.floor(settings, {"n_inner": 200})
    assert changed.train.config["n_inner"] == 200 and "n_inner" not in settings.train.config
    assert changed.train.epochs == settings.train.epochs
    recovering = synthetic.settings(
        tmp_path,
        prune={"further": ["magnitude-50-recovered"]},
        recover={"tokens": 100_000},
        train={"windows_per_epoch": 1200},
    )
    extra = steps.floor(recovering, {}).train.epochs - recovering.train.epochs
    per_epoch = 1200 * recovering.train.context
    assert (extra - 1) * per_epoch < 100_000 <= extra * per_epoch
