"""The delivered folder: the right variant, loadable by anybody, with a card that says what was measured."""

import shutil

import pytest
import torch

from prunelab import checkpoint, delivery, hub, pruning, removal, results, variants
from prunelab.errors import InputError
from prunelab.files import read_json
from tests import architectures, synthetic, tiny


def study_of(tmp_path, **changes):
    """Synthetic figures of a small study, and real tiny models in the folders of dense and magnitude-20."""
    settings = synthetic.settings(tmp_path, prune={"methods": ["magnitude"], "rates": [20, 50, 80]}, **changes)
    found, models = synthetic.write(tmp_path, settings)
    dense = models / "dense"
    shutil.rmtree(dense)
    tiny.dense_folder(dense, tiny.gpt2())
    kept = read_json(models / "magnitude-20" / "sparsity.json")
    pruning.prune(dense, tmp_path / "v", pruning.Plan(variants.parse("magnitude-20"), "uniform", "blocks", "last", 0))
    for path in (tmp_path / "v").iterdir():
        if path.name != "sparsity.json":
            shutil.copy(path, models / "magnitude-20")
    assert kept["variant"] == "magnitude-20"
    return results.read(settings, found, models)


def export(variant=None, limit=None):
    return {"variant": variant, "max_loss_increase_percent": limit, "onnx": False}


def test_the_smallest_variant_within_the_limit_is_chosen(tmp_path):
    study = study_of(tmp_path, export=export(limit=5.0))
    rows = {row["variant"]: row for row in study.rows}
    within = [v for v in ("magnitude-20", "magnitude-50", "magnitude-80") if rows[v]["loss_increase_percent_hi"] <= 5]
    choice = delivery.choose(study)
    assert choice.variant == min(within, key=lambda v: rows[v]["packed_bytes"])
    assert "within 5 % of dense" in choice.why


def test_where_nothing_is_within_the_limit_the_dense_model_is_delivered(tmp_path):
    choice = delivery.choose(study_of(tmp_path, export=export(limit=0.0001)))
    assert choice.variant == "dense"
    assert "no pruned variant stays within 0.0001 %" in choice.why


def test_the_report_s_limit_holds_where_export_has_none_and_a_name_comes_before_both(tmp_path):
    limit = f"within {study_of(tmp_path / 'a').settings.report.max_loss_increase_percent:g} %"
    assert limit in delivery.choose(study_of(tmp_path / "b", export=export())).why
    named = delivery.choose(study_of(tmp_path / "c", export=export("magnitude-80")))
    assert named == delivery.Choice("magnitude-80", "named in export.variant")


def test_a_masked_variant_becomes_a_plain_folder_and_its_card_does_not_promise_speed(tmp_path):
    from transformers import AutoModelForCausalLM

    study = study_of(tmp_path, export=export("magnitude-20"))
    facts = delivery.deliver(study, delivery.choose(study), tmp_path / "best", onnx=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        wanted = checkpoint.load(study.models / "magnitude-20")(input_ids=ids).logits
        assert torch.equal(loaded(input_ids=ids).logits, wanted)
    assert read_json(tmp_path / "best" / "delivery.json") == facts
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    row = next(row for row in study.rows if row["variant"] == "magnitude-20")
    for words in (
        f"| loss, nats a token | {study.rows[0]['loss']:.4f} | {row['loss']:.4f} |",
        "no dense kernel skips a zero",
        f"sha256 `{synthetic.HASH}`",
        "method magnitude at rate 20: ranked by magnitude",
        "calibration: none",
        "Energy is estimated",
        facts["model_sha256"],
    ):
        assert words in card
    assert not list(tmp_path.glob(".best*"))


def test_the_card_of_a_structured_recovered_variant_tells_calibration_and_recovery(tmp_path):
    study = study_of(tmp_path, export=export("magnitude-20"))
    made = study.files["magnitude-20"]["sparsity"]
    made["calibration"] = {"hash": "cd" * 32, "samples": 8, "length_tokens": 64}
    made["structure"] = {"kind": "depth", "config_changes": {"n_layer": 3}, "logits_from_masked": 2e-7}
    made["recovery"] = {"tokens": 5000, "source": "teacher", "parameters": "full", "learning_rate": 1e-3,
                        "validation_loss_before": 2.0, "validation_loss_after": 1.6}  # fmt: skip
    choice = delivery.choose(study)
    card = delivery.card(study, choice, {"model_sha256": "ef" * 32, "onnx_logits_from_torch": 3e-7})
    assert "were removed for good (depth): an ordinary, smaller model" in card
    assert f"8 samples of 64 tokens, hash `{'cd' * 32}`" in card
    assert "structure: n_layer 3; logits within 2.0e-07 of the masked model" in card
    assert "5,000 tokens from teacher" in card and "2.0000 → 1.6000" in card
    assert "differ from torch's by 3.0e-07" in card


def test_a_chosen_model_that_is_not_there_is_named(tmp_path):
    study = study_of(tmp_path, export=export("magnitude-80"))
    with pytest.raises(InputError, match="no model there, but magnitude-80 was chosen"):
        delivery.deliver(study, delivery.choose(study), tmp_path / "best", onnx=False)
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_a_delivered_onnx_file_is_checked_and_lies_beside_the_model(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    study = study_of(tmp_path, export=export("magnitude-20"))
    facts = delivery.deliver(study, delivery.choose(study), tmp_path / "best", onnx=True)
    assert (tmp_path / "best" / "model.onnx").stat().st_size > 1000
    assert facts["onnx_logits_from_torch"] < 1e-4


def test_a_structured_variant_exports_as_it_is(tmp_path):
    dense = tiny.dense_folder(tmp_path / "dense", architectures.build("llama"))
    removal.remove(dense, tmp_path / "v", removal.Plan(variants.parse("mlp-width-norms-30"), 4, "last", 0))
    checkpoint.export(tmp_path / "v", tmp_path / "plain")
    one, other = checkpoint.Tensors(tmp_path / "v"), checkpoint.Tensors(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in one.names())


def test_only_a_delivered_folder_is_pushed_and_only_when_asked(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Hub:
        def create_repo(self, repository, private, exist_ok):
            calls.append((repository, private))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append((repo_id, commit_message))
            return "done"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(InputError, match="only what the stage export wrote is uploaded"):
        hub.push(tmp_path, "me/model")
    assert calls == []
    study = study_of(tmp_path, export=export("magnitude-20"))
    delivery.deliver(study, delivery.choose(study), tmp_path / "best", onnx=False)
    assert calls == []  # delivering sends nothing
    assert hub.push(tmp_path / "best", "me/model") == "done"
    assert calls == [("me/model", True), ("me/model", "magnitude-20: named in export.variant")]


def test_a_hub_that_refuses_is_told_in_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    class Hub:
        def create_repo(self, *_, **__):
            raise OSError("no network here\nand more lines")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    (tmp_path / "delivery.json").write_text('{"variant": "v", "why": "w"}')
    with pytest.raises(InputError, match="me/model: the hub did not take it: no network here; log in with"):
        hub.push(tmp_path, "me/model")
