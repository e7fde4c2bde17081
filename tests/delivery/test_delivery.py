"""The delivered folder: the right variant, loadable by anybody, with a card that says what was measured."""

import shutil

import pytest
import torch

from prunelab.delivery import delivery, hub
from prunelab.delivery import export as exporting
from prunelab.disk.files import read_json, sha256_file, write_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, loading
from prunelab.models.tensors import Tensors, identity
from prunelab.pruning import pruning
from prunelab.quantised import files as quantised
from prunelab.quantised import opening
from prunelab.recipes import variants
from prunelab.report import results
from prunelab.structure import removal
from prunelab.training.characters import character_tokenizer
from tests.helpers import architectures, synthetic, tiny, zoo


def study_of(tmp_path, further=(), **changes):
    """Synthetic figures of a small study, and real tiny models in the folders of dense and magnitude-20."""
    prune = {"methods": ["magnitude"], "rates": [20, 50, 80], "further": list(further)}
    settings = synthetic.settings(tmp_path, prune=prune, **changes)
    found, models = synthetic.write(tmp_path, settings)
    dense = models / "s1" / "dense"
    shutil.rmtree(dense)
    tiny.dense_folder(dense, tiny.gpt2())
    kept = read_json(models / "s1" / "magnitude-20" / "sparsity.json")
    pruning.prune(dense, tmp_path / "v", pruning.Plan(variants.parse("magnitude-20"), "uniform", "blocks", "last", 0))
    for path in (tmp_path / "v").iterdir():
        if path.name != "sparsity.json":
            shutil.copy(path, models / "s1" / "magnitude-20")
    assert kept["variant"] == "magnitude-20"
    return results.read(settings, found, models)


NO_ONNX = {"onnx": False}
CHOICE = delivery.Choice("magnitude-20", "named in deploy.variant")


def test_of_several_seeds_the_first_is_delivered(tmp_path):
    study = study_of(tmp_path, seeds=["s1", "s2"], export=NO_ONNX)
    facts = delivery.deliver(study, CHOICE, tmp_path / "best", onnx=False)
    assert facts["variant"] == "magnitude-20"
    row = next(row for row in study.rows if row["path"] == "s1/magnitude-20")
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    assert f"| loss, nats a token | {study.dense['loss']:.4f} | {row['loss']:.4f} |" in card


def test_a_masked_variant_becomes_a_plain_folder_and_its_card_does_not_promise_speed(tmp_path):
    from transformers import AutoModelForCausalLM

    study = study_of(tmp_path, export=NO_ONNX)
    facts = delivery.deliver(study, CHOICE, tmp_path / "best", onnx=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        wanted = checkpoint.load(study.models / "s1" / "magnitude-20")(input_ids=ids).logits
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
    study = study_of(tmp_path, export=NO_ONNX)
    made = study.files["s1/magnitude-20"]["sparsity"]
    made["calibration"] = {"hash": "cd" * 32, "samples": 8, "length_tokens": 64}
    made["structure"] = {"kind": "depth", "config_changes": {"n_layer": 3}, "logits_from_masked": 2e-7}
    made["recovery"] = {"tokens": 5000, "source": "teacher", "parameters": "full", "learning_rate": 1e-3,
                        "validation_loss_before": 2.0, "validation_loss_after": 1.6}  # fmt: skip
    card = delivery.card(study, CHOICE, {"model_sha256": "ef" * 32, "onnx_logits_from_torch": 3e-7})
    assert "were removed for good (depth): an ordinary, smaller model" in card
    assert f"8 samples of 64 tokens, hash `{'cd' * 32}`" in card
    assert "structure: n_layer 3; logits within 2.0e-07 of the masked model" in card
    assert "5,000 tokens from teacher" in card and "2.0000 → 1.6000" in card
    assert "differ from torch's by 3.0e-07" in card


FETCHED = {
    "fetch": {"model": {"kind": "path", "name": "mine/llama", "licence": "Apache-2.0"}},
    "train": {"start": "fetched", "tokenizer": "fetched", "epochs": 0, "config": {}},
}
MANIFEST = {
    "model": "llama",
    "source": {"kind": "path", "name": "mine/llama", "revision": None, "licence": "Apache-2.0", "sha256": "12" * 32},
    "model_type": "llama",
}


def fetched_study(tmp_path, manifest=MANIFEST, **train):
    """The study of tiny models as if the dense one had been fetched."""
    changes = FETCHED | {"train": FETCHED["train"] | train}
    study = study_of(tmp_path, export=NO_ONNX)
    for name in ("train", "fetch"):
        section = getattr(study.settings, name)
        study.settings.__dict__[name] = section.model_copy(update=changes[name])
    source = study.settings.fetch.text.model_copy(update=changes["fetch"]["model"])
    study.settings.fetch.__dict__["model"] = source
    if manifest:
        write_json(study.models / "s1" / "dense" / "manifest.json", manifest)
    return study


def test_the_card_of_a_fetched_model_names_it_its_licence_and_its_architecture(tmp_path):
    study = fetched_study(tmp_path)
    assert delivery._recipe(study, None)[:2] == [
        "dense model: llama, fetched: mine/llama; architecture gpt2",  # config.json's own, not train.architecture
        f"weights: licence Apache-2.0, sha256 `{'12' * 32}`",
    ]
    (study.models / "s1" / "dense" / "LICENSE").write_text("Do as you like.")
    delivery.deliver(study, CHOICE, tmp_path / "best", onnx=False)
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    front, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert "license: apache-2.0" in front.splitlines() and "base_model" not in front
    assert f"sha256 `{'12' * 32}`" in rest and "None" not in rest and "0 epochs" not in rest
    assert (tmp_path / "best" / "LICENSE").read_text() == "Do as you like."  # a licence may ask for it


def test_a_licence_that_the_hub_has_no_name_for_is_passed_on_in_words(tmp_path):
    source = {"kind": "hub", "name": "owner/base", "revision": "ab12", "licence": "Only on Sundays", "sha256": None}
    study = fetched_study(tmp_path, manifest={"model": "base", "source": source, "model_type": "gpt2"}, epochs=3)
    front = delivery._front_matter(delivery._fetched(study)).splitlines()
    assert front[-4:] == ["license: other", 'license_name: "Only on Sundays"', "base_model: owner/base", "---"]
    assert delivery._recipe(study, None)[:2] == [
        f"dense model: base, fetched: owner/base, revision ab12; architecture gpt2, fine-tuned for 3 epochs on "
        f"{study.settings.fetch.text.name}",
        "weights: licence Only on Sundays, sha256 not known",
    ]


def test_without_fetch_s_notes_the_settings_say_what_was_fetched(tmp_path):
    recipe = delivery._recipe(fetched_study(tmp_path, manifest=None), None)
    assert recipe[0].startswith("dense model: mine/llama, fetched: mine/llama") and "licence Apache-2.0" in recipe[1]


def test_the_card_of_a_model_trained_here_names_no_licence(tmp_path):
    study = study_of(tmp_path)
    assert delivery._recipe(study, None)[0] == (
        f"dense model: trained on {study.settings.fetch.text.name}; architecture gpt2, "
        f"{study.settings.train.epochs} epochs"
    )
    assert "license" not in delivery._front_matter(delivery._fetched(study))


def a_folder(path, **config):
    """A plain folder with a tokenizer of characters, as anybody loads it."""
    tokenizer = character_tokenizer("The king of all men loves a good day.\n")
    loading.save(tiny.gpt2(vocab_size=len(tokenizer), **config), path, published=True)
    tokenizer.save_pretrained(path)
    return path


def test_the_delivered_folder_stops_writing_where_the_context_ends(tmp_path):
    from transformers import pipeline

    folder = a_folder(tmp_path / "best", n_positions=64)
    with pytest.raises(IndexError):  # the library asks for 256 tokens where nobody says otherwise
        pipeline("text-generation", model=str(folder))("The king ")
    assert delivery._bound_lengths(folder) == 64
    assert read_json(folder / "generation_config.json")["max_length"] == 64
    assert read_json(folder / "tokenizer_config.json")["model_max_length"] == 64
    write = pipeline("text-generation", model=str(folder))
    assert len(write("The king ", return_tensors=True)[0]["generated_token_ids"]) == 64
    written = write("The king ", max_new_tokens=60, handle_long_generation="hole")[0]["generated_text"]
    assert written.startswith("The king ")
    with pytest.raises(ValueError, match="`max_length` is set to 64"):
        write("The king " * 9)


def test_what_a_model_s_makers_set_stays_where_it_is_shorter_than_the_context(tmp_path):
    folder = a_folder(tmp_path / "best", n_positions=64)
    path, said = folder / "generation_config.json", {"eos_token_id": 3, "temperature": 0.6, "do_sample": True}
    for lengths, bounded in (
        ({"max_new_tokens": 20}, {"max_new_tokens": 20}),
        ({"max_new_tokens": 2048}, {"max_length": 64}),
        ({"max_length": 30}, {"max_length": 30}),
        ({"max_length": 4096}, {"max_length": 64}),
        ({}, {"max_length": 64}),
    ):
        write_json(path, said | lengths)
        delivery._bound_lengths(folder)
        assert read_json(path) == said | bounded
    path.unlink()
    config = read_json(folder / "config.json") | {"eos_token_id": 3}
    write_json(folder / "config.json", config)
    delivery._bound_lengths(folder)
    made = read_json(path)
    assert made["max_length"] == 64 and made["eos_token_id"] == 3  # the config's own would no longer be asked
    write_json(folder / "tokenizer_config.json", read_json(folder / "tokenizer_config.json") | {"model_max_length": 40})
    delivery._bound_lengths(folder)
    assert read_json(folder / "tokenizer_config.json")["model_max_length"] == 40


def test_a_model_without_an_end_is_left_as_it_is(tmp_path):
    loading.save(zoo.random_model("BLOOM", 40), tmp_path)
    before = (tmp_path / "generation_config.json").read_bytes()
    assert delivery._bound_lengths(tmp_path) is None and delivery._context(None) == []
    assert (tmp_path / "generation_config.json").read_bytes() == before


def test_the_card_says_the_context(tmp_path):
    study = study_of(tmp_path, export=NO_ONNX)
    facts = delivery.deliver(study, CHOICE, tmp_path / "best", onnx=False)
    assert facts["context_tokens"] == 32
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    assert "Context: 32 tokens, prompt and answer together." in card and "`IndexError`" in card


def test_a_chosen_model_that_is_not_there_is_named(tmp_path):
    study = study_of(tmp_path, export=NO_ONNX)
    chosen = CHOICE._replace(variant="magnitude-80")
    with pytest.raises(InputError, match="no model there, but magnitude-80 was chosen"):
        delivery.deliver(study, chosen, tmp_path / "best", onnx=False)
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_a_delivered_onnx_file_is_checked_and_lies_beside_the_model(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    study = study_of(tmp_path, export=NO_ONNX)
    facts = delivery.deliver(study, CHOICE, tmp_path / "best", onnx=True)
    assert (tmp_path / "best" / "model.onnx").stat().st_size > 1000
    assert facts["onnx_logits_from_torch"] < 1e-4


def test_a_quantised_model_is_delivered_as_it_is_with_the_line_that_loads_it(tmp_path):
    study = study_of(tmp_path, further=["dense-int4"])
    dense, place = study.models / "s1" / "dense", study.models / "s1" / "dense-int4"
    quantised.write(checkpoint.load(dense), dense, place, "dense-int4", identity(dense), precision="int4")
    study = results.read(study.settings, study.results, study.models)
    facts = delivery.deliver(study, CHOICE._replace(variant="dense-int4"), tmp_path / "best", onnx=True)
    assert facts["variant"] == "dense-int4" and facts["onnx_logits_from_torch"] is None
    assert facts["model_sha256"] == sha256_file(place / "model.safetensors")
    card = (tmp_path / "best" / "README.md").read_text()
    assert "import prunelab.hf" in card and "no `model.onnx`: the exporter knows no operator" in card
    found, wanted = opening.load(tmp_path / "best"), opening.load(place)
    with torch.no_grad():
        ids = torch.arange(8)[None]
        assert torch.equal(found(input_ids=ids).logits, wanted(input_ids=ids).logits)
    with pytest.raises(InputError, match="in int4; .*; copy its folder as it is: after `import prunelab.hf` from_pre"):
        exporting.write(place, tmp_path / "plain")


def test_a_structured_variant_exports_as_it_is(tmp_path):
    dense = tiny.dense_folder(tmp_path / "dense", architectures.build("llama"))
    removal.remove(dense, tmp_path / "v", removal.Plan(variants.parse("mlp-width-norms-30"), 4, "last", 0))
    checkpoint.export(tmp_path / "v", tmp_path / "plain")
    one, other = Tensors(tmp_path / "v"), Tensors(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in one.names())


def test_only_a_delivered_folder_is_pushed_and_only_when_asked(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Hub:
        def create_repo(self, repository, private, exist_ok):
            calls.append((repository, private))

        def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
            assert ignore_patterns == [".written-by-prunelab"]
            calls.append((repo_id, commit_message))
            return "done"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(InputError, match="only what the stage export wrote is uploaded"):
        hub.push(tmp_path, "me/model")
    assert calls == []
    study = study_of(tmp_path, export=NO_ONNX)
    delivery.deliver(study, CHOICE, tmp_path / "best", onnx=False)
    assert calls == []  # delivering sends nothing
    assert hub.push(tmp_path / "best", "me/model") == "done"
    assert calls == [("me/model", True), ("me/model", "magnitude-20: named in deploy.variant")]


def test_a_hub_that_refuses_is_told_in_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    class Hub:
        def create_repo(self, *_, **__):
            raise OSError("no network here\nand more lines")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    (tmp_path / "delivery.json").write_text('{"variant": "v", "why": "w"}')
    with pytest.raises(InputError, match="me/model: the hub did not take it: no network here; log in with"):
        hub.push(tmp_path, "me/model")
