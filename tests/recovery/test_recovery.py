"""Recovery regains loss without undoing the pruning."""

import pytest
import torch

from prunelab.disk.files import read_json
from prunelab.errors import InputError
from prunelab.models import checkpoint, packed
from prunelab.models.tensors import Tensors
from prunelab.pruning import pruning
from prunelab.recipes import variants
from prunelab.recovery import recovery
from prunelab.recovery.recovery import Lessons
from prunelab.structure import removal
from prunelab.tasks.language import lessons
from tests.helpers import architectures, tiny

TEXT = torch.arange(4000) * 7 % 40  # as easy to predict as can be
WINDOWS = TEXT[: 10 * 16].view(10, 16)
VALIDATION = {"input_ids": WINDOWS}
DEFAULTS = {
    "tokens": 40 * 8 * 16, "source": "data", "parameters": "full", "lora_rank": 2, "learning_rate": 5e-3,
    "weight_decay": 0.1, "batch_size": 8, "context": 16, "seed": 3,
}  # fmt: skip


def plan(**changes):
    return recovery.Plan(**{**DEFAULTS, **changes})


def taught(wanted: recovery.Plan, text=TEXT) -> Lessons:
    return lessons.of_tokens(text, WINDOWS, wanted.tokens, wanted.batch_size, wanted.context, wanted.seed)


def train(model, wanted: recovery.Plan) -> None:
    recovery._train(model, {}, None, wanted, taught(wanted), "dense")


def recover(variant, dense, out, name: str, wanted: recovery.Plan, text=TEXT) -> dict:
    return recovery.recover(variant, dense, out, name, wanted, taught(wanted, text))


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A tiny GPT-2 that has learned the text, so that there is something to lose and regain."""
    model = tiny.gpt2(n_embd=24)
    train(model, plan(tokens=100 * 128, learning_rate=1e-2))
    return tiny.dense_folder(tmp_path_factory.mktemp("models") / "dense", model)


@pytest.fixture(scope="module")
def sparse(dense, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "magnitude-80"
    pruning.prune(dense, out, pruning.Plan(variants.parse("magnitude-80"), "uniform", "blocks", "last", 0))
    return out


@pytest.fixture(scope="module")
def small(dense, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "mlp-width-norms-40"
    removal.remove(dense, out, removal.Plan(variants.parse("mlp-width-norms-40"), 8, "last", 0))
    return out


def test_no_zero_comes_back_with_adamw_and_weight_decay(sparse, dense, tmp_path):
    record = recover(sparse, dense, tmp_path / "v", "magnitude-80-recovered", plan(weight_decay=0.5))
    before, after = dict(packed.masks_of(sparse)), dict(packed.masks_of(tmp_path / "v"))
    assert before.keys() == after.keys() and len(before) == 8
    weights, old = dict(packed.unpacked(tmp_path / "v")), dict(packed.unpacked(sparse))
    assert weights.keys() == old.keys()
    for name, keep in before.items():
        assert torch.equal(after[name], keep)
        assert not weights[name][~keep].any(), name
        assert not torch.equal(weights[name][keep], old[name][keep])  # and the others did learn
    assert record["recovery"]["validation_loss_after"] < 0.8 * record["recovery"]["validation_loss_before"]
    assert record["nonzero_parameters"] == sum(int(w.count_nonzero()) for w in weights.values())
    assert record["sparsity_pruned"] == read_json(sparse / "sparsity.json")["sparsity_pruned"]


def test_without_the_mask_zeros_do_come_back(sparse):
    """What the test above guards against really happens."""
    model = checkpoint.load(sparse)
    train(model, plan(tokens=2 * 128))
    name, keep = next(packed.masks_of(sparse))
    assert model.get_parameter(name)[~keep].any()


def test_momentum_alone_would_bring_zeros_back_and_is_held_down():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)
    weight.sum().backward()
    optimizer.step()
    keep = torch.tensor([True, False])
    recovery.enforce([(weight, keep)])
    weight.grad.zero_()  # masked gradients are zero from now on, and still Adam moves the weight
    optimizer.step()
    assert weight[1] != 0
    recovery.enforce([(weight, keep)])
    assert weight[1] == 0 and weight[0] != 0


def test_retraining_keeps_the_mask_and_the_moment_of_the_lowest_validation_loss(sparse, dense, tmp_path):
    wanted = plan(evaluate_every=5, tokens=12 * 128, learning_rate=2e-2)
    facts = recover(sparse, dense, tmp_path / "v", "magnitude-80-retrained", wanted)["recovery"]
    told = {row["step"]: row["validation_loss"] for row in facts["validation_curve"]}
    assert [*told] == [0, 5, 10, 12]
    assert facts["validation_loss_after"] == min(told.values()) == told[facts["kept_step"]] < told[0]
    assert recovery.loss(checkpoint.load(tmp_path / "v"), taught(wanted).validation) == min(told.values())
    weights = dict(packed.unpacked(tmp_path / "v"))
    for name, keep in packed.masks_of(sparse):
        assert not weights[name][~keep].any() and weights[name][keep].all(), name


def test_retraining_that_only_makes_it_worse_ends_where_it_began(sparse, dense, tmp_path):
    wanted = plan(evaluate_every=2, tokens=6 * 128, learning_rate=0.3)
    facts = recover(sparse, dense, tmp_path / "v", "magnitude-80-retrained", wanted)["recovery"]
    assert facts["kept_step"] == 0 and facts["validation_loss_after"] == facts["validation_loss_before"]
    assert min(row["validation_loss"] for row in facts["validation_curve"][1:]) > facts["validation_loss_after"]
    before, after = (dict(packed.unpacked(folder)) for folder in (sparse, tmp_path / "v"))
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_best_is_looked_for_without_dropout_and_training_goes_on_with_it():
    model = tiny.gpt2(resid_pdrop=0.9).train()
    best = recovery.Best(model, [VALIDATION])
    best.look(0)
    assert model.training and best.loss == recovery.loss(model.eval(), [VALIDATION])


def test_the_first_lessons_are_the_first_batches_every_time():
    lessons = taught(plan()).first(3)
    assert len(lessons.batches) == 3 and len(taught(plan()).first(10**6).batches) == 40
    for _ in range(2):
        seen = zip(lessons.batches, taught(plan()).batches, strict=False)
        assert sum(torch.equal(one["input_ids"], other["input_ids"]) for one, other in seen) == 3


@pytest.mark.parametrize("source", ["data", "teacher"])
def test_a_smaller_model_recovers_and_stays_an_ordinary_folder(small, dense, tmp_path, source):
    from transformers import AutoModelForCausalLM

    record = recover(small, dense, tmp_path / "v", "x-recovered", plan(source=source))
    facts = record["recovery"]
    assert facts["from"] == "mlp-width-norms-40" and facts["steps"] == 40 and facts["tokens"] == 40 * 128
    assert facts["validation_loss_after"] < facts["validation_loss_before"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "v").eval()
    assert recovery.loss(model, [VALIDATION]) == pytest.approx(facts["validation_loss_after"], rel=1e-5)
    assert record["packed_bytes"] == (tmp_path / "v" / "model.safetensors").stat().st_size
    assert facts["curve"][-1]["tokens"] == facts["tokens"]


def test_the_teacher_s_own_copy_has_nothing_to_learn(dense):
    teacher = checkpoint.load(dense)
    assert recovery._loss(checkpoint.load(dense), teacher, VALIDATION).item() == pytest.approx(0, abs=1e-6)


def test_kl_is_that_of_the_dense_distribution_to_the_variant_s(small, dense):
    student, teacher = checkpoint.load(small), checkpoint.load(dense)
    with torch.no_grad():
        found = recovery._loss(student, teacher, VALIDATION)
        p, q = (m(input_ids=WINDOWS).logits.double().softmax(-1) for m in (teacher, student))
    assert found.item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)


def test_where_labels_say_what_is_learned_loss_and_distribution_are_of_these_tokens_alone(small, dense):
    student, teacher = checkpoint.load(small), checkpoint.load(dense)
    labels = torch.full_like(WINDOWS, -100)
    labels[:, -3:] = WINDOWS[:, -3:]
    batch = {"input_ids": WINDOWS, "labels": labels}
    with torch.no_grad():
        p, q = (m(input_ids=WINDOWS).logits[:, -4:-1].double().log_softmax(-1) for m in (teacher, student))
        found = recovery._loss(student, teacher, batch)
    assert found.item() == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    expected = -q.gather(-1, WINDOWS[:, -3:, None]).mean().item()
    assert recovery.loss(student, [batch]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_low_rank_updates_are_merged_into_an_ordinary_model(name, tmp_path):
    pytest.importorskip("peft", reason="the extra `recovery` is not installed")
    model = architectures.build(name)
    folder = tiny.dense_folder(tmp_path / "dense", model)
    removal.remove(folder, tmp_path / "small", removal.Plan(variants.parse("mlp-width-norms-40"), 8, "last", 0))
    record = recover(tmp_path / "small", folder, tmp_path / "v", "v", plan(parameters="lora", tokens=20 * 128))
    old, new = Tensors(tmp_path / "small"), Tensors(tmp_path / "v")
    assert sorted(old.names()) == sorted(new.names())
    prunable = {t["name"] for t in read_json(tmp_path / "v" / "prunable.json")}
    assert {n for n in old.names() if not torch.equal(old[n], new[n])} == prunable
    assert torch.linalg.matrix_rank(new[min(prunable)] - old[min(prunable)], rtol=1e-3) == 2
    assert record["recovery"]["validation_loss_after"] < record["recovery"]["validation_loss_before"]
    assert recovery.loss(checkpoint.load(tmp_path / "v"), [VALIDATION]) == pytest.approx(
        record["recovery"]["validation_loss_after"], rel=1e-4
    )


def test_lora_on_a_mask_is_refused(sparse, dense, tmp_path):
    with pytest.raises(InputError, match="lora would fill the zeros of a sparse variant"):
        recover(sparse, dense, tmp_path / "v", "v", plan(parameters="lora"))
    assert not (tmp_path / "v").exists()


def test_a_loss_that_is_not_finite_stops_it_with_the_step(small, dense, tmp_path):
    with pytest.raises(InputError, match=r"v: recovery step \d+: the loss is (nan|inf); nothing was written"):
        recover(small, dense, tmp_path / "v", "v", plan(learning_rate=1e30))
    assert not (tmp_path / "v").exists()


def test_the_same_seed_gives_the_same_model(small, dense, tmp_path):
    for folder in ("a", "b"):
        recover(small, dense, tmp_path / folder, "v", plan(tokens=5 * 128))
    one, other = Tensors(tmp_path / "a"), Tensors(tmp_path / "b")
    assert all(torch.equal(one[name], other[name]) for name in one.names())


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    rates = [recovery.rate_at(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_text_shorter_than_a_window_is_named(small, dense, tmp_path):
    with pytest.raises(InputError, match="train.context is 16 tokens, the training text has 9"):
        recover(small, dense, tmp_path / "v", "v", plan(), TEXT[:9])
