"""Block-by-block calibration and pruning against plain references that run the whole model, over many architectures."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from prunelab.calibration import calibration, gradients
from prunelab.calibration.blocks import BlockModel
from prunelab.calibration.calibration import Calibration
from prunelab.calibration.samples import digest
from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, models, packed
from prunelab.models.tensors import Tensors
from prunelab.pruning import pruning, streaming
from prunelab.recipes import variants
from prunelab.tasks.language import crops
from tests.helpers import decoders, plain

TOKENS = decoders.samples()
SAMPLES = {"input_ids": TOKENS}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These matrices are so small that sharing them among threads costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=list(decoders.CONFIGS))
def dense(request, tmp_path_factory):
    return decoders.dense_folder(tmp_path_factory.mktemp(request.param) / "dense", request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return decoders.dense_folder(tmp_path_factory.mktemp("llama") / "dense", "llama")


@pytest.fixture(scope="module")
def seen(dense, tmp_path_factory):
    """Everything that one look at the dense model can leave."""
    return look(dense, tmp_path_factory.mktemp("seen"))


def look(dense, out, needs=("norms", "hessians", "gradients"), disk=None):
    model = BlockModel(dense, precision="fp32")
    names = {tensor["name"] for tensor in read_json(dense / "prunable.json")}
    if set(needs) & {"norms", "hessians"}:
        streaming.observe(model, names, SAMPLES, 4, "hessians" in needs, out, disk)
    if "gradients" in needs:
        gradients.write(model, names, SAMPLES, out, disk)
    calibration.write(out, SAMPLES, {"seed": 0})
    return Calibration(out)


def whole(dense):
    return AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()


def inputs_of(model, entries, samples=None):
    """What reaches each layer of `entries` in the whole model: name → (tokens, in)."""
    found = {entry["name"]: [] for entry in entries}
    hooks = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, args, name=name: found[name].append(args[0].reshape(-1, args[0].shape[-1]))
        )
        for name in found
    ]
    with torch.no_grad():
        for sample in samples or TOKENS.split(1):
            model(sample, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def rows(tensor, entry):
    return tensor.T if entry["transposed"] else tensor


def prune_plainly(dense, rule):
    """Prune the whole model block after block, each seeing the pruned ones before; yields (entry, weight, keep)."""
    model = whole(dense)
    entries = read_json(dense / "prunable.json")
    for block in sorted({entry["block"] for entry in entries}):
        of_block = [entry for entry in entries if entry["block"] == block]
        inputs = inputs_of(model, of_block)
        for entry in of_block:
            weight = model.get_parameter(entry["name"])
            new, keep = rule(rows(weight.detach(), entry), inputs[entry["name"]])
            weight.data.copy_(rows(new, entry))
            yield entry, new, keep


def prune(dense, out, identifier, seen=None, by_blocks=False, scope="blocks", batch=4, disk=None, owl=(5.0, 0.08)):
    variant = variants.parse(identifier)
    plan = pruning.Plan(variant, variant.allocation or "uniform", scope, "last", 0, owl)
    decide = None
    if by_blocks:
        decide = streaming.decide_by_blocks(plan, BlockModel(dense, precision="fp32"), SAMPLES, batch, disk)
    return pruning.prune(dense, out, plan, seen, decide)


@pytest.mark.parametrize(
    ("rate", "how"), [("50", {"sparsity": 0.5}), ("2of4", {"n_of_m": (2, 4)}), ("4of8", {"n_of_m": (4, 8)})]
)
def test_wanda_behind_pruned_blocks_agrees_with_the_plain_rule_on_every_weight(dense, seen, tmp_path, rate, how):
    record = prune(dense, tmp_path / "v", f"wanda-{rate}", seen, by_blocks=True)
    kept = dict(packed.masks_of(tmp_path / "v"))

    def rule(weight, inputs):
        keep = plain.wanda(weight, inputs, **how)
        return weight * keep, keep

    for entry, _, keep in prune_plainly(dense, rule):
        assert torch.equal(rows(kept.pop(entry["name"]), entry), keep), entry["name"]
    assert not kept
    assert record["sparsity_pruned"] == 0.5
    assert record["calibration"]["hash"] == digest(SAMPLES)


@pytest.mark.parametrize(("rate", "how"), [("40", {"sparsity": 0.4}), ("2of4", {"n_of_m": (2, 4)})])
def test_sparsegpt_behind_pruned_blocks_agrees_with_plain_double_precision(dense, seen, tmp_path, rate, how):
    prune(dense, tmp_path / "v", f"sparsegpt-{rate}", seen, by_blocks=True)
    found = dict(packed.unpacked(tmp_path / "v"))

    def rule(weight, inputs):
        return plain.sparsegpt(weight, 2 / len(inputs) * (inputs.double().T @ inputs.double()), **how)

    for entry, expected, _ in prune_plainly(dense, rule):
        new = rows(found[entry["name"]], entry).double()
        assert (new - expected).norm() / expected.norm() < 1e-4, entry["name"]


def test_statistics_of_the_dense_model_are_those_of_the_whole_model(dense, seen):
    entries = read_json(dense / "prunable.json")
    for name, inputs in inputs_of(whole(dense), entries).items():
        norm = inputs.double().pow(2).sum(0) / len(TOKENS)
        assert torch.allclose(seen.squared_norm(name).double(), norm, rtol=1e-5)
        hessian = 2 / len(inputs) * (inputs.double().T @ inputs.double())
        found = seen.hessian(name).double()
        assert (found - hessian).norm() / hessian.norm() < 1e-6
        assert torch.equal(found, found.T)


def test_gradients_are_those_of_the_whole_model(dense, seen):
    model = whole(dense)
    names = [entry["name"] for entry in read_json(dense / "prunable.json")]
    expected = dict.fromkeys(names, 0)
    for sample in TOKENS:
        model.zero_grad()
        model(input_ids=sample[None], labels=sample[None]).loss.backward()
        for name in names:
            weight = model.get_parameter(name)
            expected[name] = expected[name] + (weight.detach() * weight.grad).abs()
    for name in names:
        assert torch.allclose(seen.gradient(name), expected[name], rtol=1e-3, atol=1e-7), name


def filled_up():
    """Samples of three lengths in one tensor, whose answers alone are learned; and each sample by itself."""
    lengths, answers = (32, 20, 7), (4, 1, 3)
    mask, labels = torch.zeros(3, 32, dtype=torch.int64), torch.full((3, 32), -100)
    alone = []
    for row, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        mask[row, :length] = 1
        labels[row, length - answer : length] = TOKENS[row, length - answer : length]
        alone.append((TOKENS[row : row + 1, :length], labels[row : row + 1, :length]))
    return {"input_ids": TOKENS[:3], "attention_mask": mask, "labels": labels}, alone


def test_what_fills_a_sample_up_counts_in_no_statistic_and_gradients_are_of_the_answers(llama, tmp_path):
    samples, alone = filled_up()
    model, entries = BlockModel(llama, precision="fp32"), read_json(llama / "prunable.json")
    names = {entry["name"] for entry in entries}
    streaming.observe(model, names, samples, 2, True, tmp_path)
    gradients.write(model, names, samples, tmp_path)
    calibration.write(tmp_path, samples, {"seed": 0})
    seen, full = Calibration(tmp_path), whole(llama)
    assert all(torch.equal(seen.samples()[name], tensor) for name, tensor in samples.items())
    inputs = inputs_of(full, entries, [tokens for tokens, _ in alone])
    expected = dict.fromkeys(names, 0)
    for tokens, labels in alone:
        full.zero_grad()
        full(input_ids=tokens, labels=labels).loss.backward()
        for name in names:
            weight = full.get_parameter(name)
            expected[name] = expected[name] + (weight.detach() * weight.grad).abs()
    for name in names:
        x = inputs[name].double()
        assert torch.allclose(seen.squared_norm(name).double(), x.pow(2).sum(0) / 3, rtol=1e-4)
        assert torch.allclose(seen.hessian(name).double(), 2 / len(x) * x.T @ x, rtol=1e-3, atol=1e-5)
        assert torch.allclose(seen.gradient(name), expected[name], rtol=1e-3, atol=1e-7)


def test_from_dense_statistics_wanda_and_ria_agree_with_the_plain_rules(dense, seen, tmp_path):
    entries = read_json(dense / "prunable.json")
    inputs = inputs_of(whole(dense), entries)
    weights = Tensors(dense)
    for method, rule in (("wanda", plain.wanda), ("ria", plain.ria)):
        prune(dense, tmp_path / method, f"{method}-30", seen)
        kept = dict(packed.masks_of(tmp_path / method))
        for entry in entries:
            name = entry["name"]
            assert torch.equal(rows(kept[name], entry), rule(rows(weights[name], entry), inputs[name], 0.3)), name


def test_nothing_but_the_linear_weights_of_the_blocks_is_touched(dense, seen, tmp_path):
    before = Tensors(dense)
    names = {entry["name"] for entry in read_json(dense / "prunable.json")}
    prune(dense, tmp_path / "v", "sparsegpt-50", seen, by_blocks=True)
    after = dict(packed.unpacked(tmp_path / "v"))
    assert set(after) == set(before.names())
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) != (name in names), name


def test_the_variant_loads_and_computes_what_its_tensors_say(dense, seen, tmp_path):
    prune(dense, tmp_path / "v", "sparsegpt-50", seen, by_blocks=True)
    model = whole(dense)
    for name, tensor in packed.unpacked(tmp_path / "v"):
        if name in dict(model.named_parameters()):
            model.get_parameter(name).data.copy_(tensor)
    with torch.no_grad():
        expected = model(TOKENS[:1]).logits
        assert torch.equal(checkpoint.load(tmp_path / "v", dtype=torch.float32)(TOKENS[:1]).logits, expected)


@pytest.mark.parametrize("method", ["wanda", "ria", "taylor", "sparsegpt"])
def test_more_sparsity_never_adds_a_weight_back(llama, tmp_path, method):
    seen = look(llama, tmp_path)
    before = None
    for percent in (25, 50, 75):  # whole numbers of weights in rows, tensors and blocks
        prune(llama, tmp_path / str(percent), f"{method}-{percent}", seen)
        kept = dict(packed.masks_of(tmp_path / str(percent)))
        if before is not None and method != "sparsegpt":  # its later scores depend on what was removed before
            assert all((kept[name] <= before[name]).all() for name in kept)
        before = kept
        for keep in kept.values():
            assert (~keep).sum() == round(percent / 100 * keep.numel())


@pytest.mark.parametrize("method", ["wanda", "ria", "sparsegpt"])
def test_disk_or_memory_threads_and_any_batch_size_give_the_same_variant(llama, tmp_path, method):
    seen = look(llama, tmp_path, needs=())
    found = []
    for number, (threads, options) in enumerate(
        ((1, {"batch": 2}), (1, {"batch": 2, "disk": tmp_path}), (2, {"batch": 2}), (1, {"batch": 5}))
    ):
        torch.set_num_threads(threads)
        prune(llama, tmp_path / str(number), f"{method}-50", seen, by_blocks=True, **options)
        found.append(dict(packed.unpacked(tmp_path / str(number))))
    torch.set_num_threads(1)
    for name, tensor in found[0].items():
        assert torch.equal(found[1][name], tensor)  # to the bit
        for other in found[2:]:
            assert torch.allclose(other[name], tensor, atol=1e-5)


def test_gradients_from_two_threads_are_those_of_one(llama, tmp_path):
    (tmp_path / "one").mkdir()
    one = look(llama, tmp_path / "one", needs=("gradients",))
    torch.set_num_threads(2)
    (tmp_path / "two").mkdir()
    two = look(llama, tmp_path / "two", needs=("gradients",), disk=tmp_path)
    torch.set_num_threads(1)
    for entry in read_json(llama / "prunable.json"):
        assert torch.allclose(one.gradient(entry["name"]), two.gradient(entry["name"]), rtol=1e-4, atol=1e-8)


def test_only_what_is_in_scope_is_pruned_and_watched(llama, tmp_path):
    seen = look(llama, tmp_path)
    record = prune(llama, tmp_path / "v", "wanda-50", seen, by_blocks=True, scope="mlp")
    assert {layer["role"] for layer in record["layers"]} == {"mlp"}
    assert all("mlp" in name for name, _ in packed.masks_of(tmp_path / "v"))


@pytest.mark.parametrize(
    ("identifier", "by_blocks"),
    [
        ("wanda-global-50", False),
        ("wanda-global-50", True),
        ("ria-owl-50", False),
        ("ria-owl-50", True),
        ("sparsegpt-owl-60", True),
        ("magnitude-owl-40", False),
        ("taylor-global-30", False),
    ],
)
def test_every_allocation_removes_the_asked_share_of_the_whole(llama, tmp_path, identifier, by_blocks):
    seen = look(llama, tmp_path)
    record = prune(llama, tmp_path / "v", identifier, seen, by_blocks=by_blocks, owl=(1.5, 0.2))
    assert record["sparsity_pruned"] == pytest.approx(int(record["rate"]) / 100, abs=2e-3)  # rounded per row
    assert len({round(layer["sparsity"], 3) for layer in record["layers"]}) > 1
    if "owl" in identifier:
        of_block = {}
        for layer in record["layers"]:
            of_block.setdefault(layer["block"], set()).add(round(layer["sparsity"], 1))
        assert all(len(shares) == 1 for shares in of_block.values())


def test_global_by_blocks_gives_every_tensor_the_share_that_one_ranking_of_the_dense_model_gives_it(llama, tmp_path):
    seen = look(llama, tmp_path)
    at_once = prune(llama, tmp_path / "a", "wanda-global-50", seen)
    by_blocks = prune(llama, tmp_path / "b", "wanda-global-50", seen, by_blocks=True)
    assert [layer["zeros"] for layer in at_once["layers"]] == [layer["zeros"] for layer in by_blocks["layers"]]


def broken_llama(path, change):
    model = decoders.random_model("llama")
    with torch.no_grad():
        change(model)
    return decoders.tiny.dense_folder(path, model)


def test_a_layer_whose_inputs_are_all_zero_is_told_by_name(tmp_path):
    dense = broken_llama(tmp_path / "dense", lambda model: model.model.layers[1].mlp.up_proj.weight.zero_())
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.down_proj\.weight: all its inputs are zero"):
        prune(dense, tmp_path / "v", "wanda-50", look(dense, tmp_path, needs=()), by_blocks=True)
    assert not list(tmp_path.glob("*v*"))  # nothing half-written


def test_a_layer_whose_inputs_are_not_finite_is_told_by_name(tmp_path):
    dense = broken_llama(tmp_path / "dense", lambda model: model.model.layers[1].mlp.up_proj.weight.fill_(3e38))
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.down_proj\.weight: its inputs are not finite"):
        look(dense, tmp_path, needs=("norms",))


def test_groups_that_do_not_fit_are_told_by_tensor(llama, tmp_path):
    seen = look(llama, tmp_path, needs=("norms", "hessians"))
    for method in ("wanda", "sparsegpt"):
        with pytest.raises(
            InputError, match=rf"{method}-2of5: model\.layers\.0\..*: 32 inputs do not divide into groups"
        ):
            prune(llama, tmp_path / "v", f"{method}-2of5", seen)
        assert not list(tmp_path.glob("*v*"))


def test_a_method_without_the_statistics_it_needs_says_what_is_missing(llama, tmp_path):
    seen = look(llama, tmp_path, needs=("norms",))
    for method, what in (("sparsegpt", "Hessians"), ("taylor", "gradients")):
        with pytest.raises(InputError, match=f"holds no {what} of model.layers.0"):
            prune(llama, tmp_path / "v", f"{method}-50", seen)
    with pytest.raises(InputError, match="looks at calibration text"):
        prune(llama, tmp_path / "v", "wanda-50", None)


def test_a_cut_off_file_is_told_before_anything_is_written(tmp_path):
    dense = decoders.dense_folder(tmp_path / "dense", "llama")
    seen = look(dense, tmp_path, needs=("norms",))
    path = dense / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cut off or corrupt"):
        prune(dense, tmp_path / "v", "wanda-50", seen)
    assert not list(tmp_path.glob("*v*"))


def test_a_real_pretrained_model_keeps_what_it_knows_better_under_wanda_than_under_magnitude(tmp_path):
    folder = decoders.REAL
    if not folder.is_dir():
        pytest.skip(f"{folder}: the small pretrained model lies beside the repository, and is not there")
    from transformers import AutoTokenizer

    dense = decoders.tiny.dense_folder(tmp_path / "dense", AutoModelForCausalLM.from_pretrained(folder))
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog. "
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(story * 3)["input_ids"])
    samples = {"input_ids": crops.draw(ids, 4, 24, seed=0)}
    plan = {m: pruning.Plan(variants.parse(f"{m}-50"), "uniform", "blocks", "last", 0) for m in ("wanda", "magnitude")}
    calibration.write(tmp_path, samples, {"seed": 0})
    decide = streaming.decide_by_blocks(plan["wanda"], BlockModel(dense, precision="fp32"), samples, 2)
    pruning.prune(dense, tmp_path / "wanda", plan["wanda"], Calibration(tmp_path), decide)
    pruning.prune(dense, tmp_path / "magnitude", plan["magnitude"])

    def loss(path):
        with torch.no_grad():
            return checkpoint.load(path)(input_ids=ids[None, :100], labels=ids[None, :100]).loss.item()

    assert loss(dense) < loss(tmp_path / "wanda") < loss(tmp_path / "magnitude")


def test_blocks_are_found_by_the_same_rule_for_pruning_and_for_the_list_of_prunable_tensors(dense):
    model = BlockModel(dense)
    assert models.prunable_tensors(whole(dense)) == models.prunable_tensors(model.model)
