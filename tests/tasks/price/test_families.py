"""Every family that sees pictures, from what is fetched to what is judged: two steps of training, three methods."""

import json

import pytest
import torch

from prunelab import tasks
from prunelab.calibration.calibration import Calibration
from prunelab.models import checkpoint, models, packed, pretrained
from prunelab.pruning import pruning, streaming
from prunelab.recipes import variants
from prunelab.study.params import Source
from prunelab.training import training
from tests.helpers import seeing

PRICE = tasks.of("price")


@pytest.fixture(scope="module", params=list(seeing.PLACES))
def study(request, tmp_path_factory):
    """(settings, folder with data, dense, calibration, reference) of a family."""
    root = tmp_path_factory.mktemp("study")
    settings, family = seeing.settings(), request.param
    data = seeing.rows(root / "data", family)
    pretrained.prepare(Source(kind="path", name=str(seeing.model_of(family))), data / "model", PRICE.MODELS)
    for name in ("dense", "calibration"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        training.run(settings, PRICE, data, root / "dense", 1)
    samples, about = PRICE.samples(settings, root / "dense", data, 1)
    streaming.calibrate(settings, root / "dense", samples, about, root / "calibration", 1)
    PRICE.reference(settings, root / "dense", data, root / "probes", root / "reference")
    return settings, root


@pytest.mark.parametrize("name", ["magnitude-50", "wanda-50", "systematic-50"])
def test_it_is_pruned_and_judged_beside_dense(study, name):
    settings, root = study
    plan = pruning.Plan(variants.parse(name), "uniform", "blocks", "last", 0)
    pruning.prune(root / "dense", root / name, plan, Calibration(root / "calibration"))
    PRICE.judge(settings, name, root / name, root / "reference", root / "probes", root / f"{name}-judged")
    said = json.loads((root / f"{name}-judged" / "quality.json").read_text())
    assert said["mae"] > 0 and said["loss"] > 0 and said["loss_diff"] != 0
    kept = [float(keep.float().mean()) for _, keep in packed.masks_of(root / name)]
    assert kept and all(share == pytest.approx(0.5, abs=0.01) for share in kept)


def test_what_is_seen_block_by_block_is_what_the_whole_model_sees(study):
    """Pictures, masks that reach both ways, and padding, which is not counted."""
    _, root = study
    model, calibration = checkpoint.load(root / "dense"), Calibration(root / "calibration")
    samples = calibration.samples()
    own, sums, hooks = samples["attention_mask"].bool(), {}, []
    for entry in models.prunable_tensors(model):
        layer = model.get_submodule(entry["name"].removesuffix(".weight"))

        def see(module, args, name=entry["name"]):
            sums[name] = args[0][own].double().square().sum(0)

        hooks.append(layer.register_forward_pre_hook(see))
    with torch.inference_mode():
        model(**{name: value for name, value in samples.items() if name != "labels"}, use_cache=False)
    for name, total in sums.items():
        assert torch.allclose(calibration.squared_norm(name).double() * len(own), total, rtol=1e-4), name
    assert not own.all()
