"""Answers of lm-eval against likelihoods computed by hand; files that are no questions; paired comparison."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prunelab.errors import InputError
from prunelab.quality import zeroshot
from prunelab.training.characters import character_tokenizer

pytest.importorskip("lm_eval", reason="lm-eval, the extra `tasks`, is not installed")
SHARED = Path(__file__).parents[2] / "../shared/data"
LETTERS = "abcdefghijklmnopqrstuvwxyz ?\n"


def character_model(positions=64):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", n_layer=2, n_head=2, n_embd=16, n_positions=positions, vocab_size=30, bos_token_id=1, eos_token_id=2
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model, character_tokenizer(LETTERS)


def questions(path: Path, count=12, seed=0) -> Path:
    generator = np.random.default_rng(seed)

    def word(longest):
        return "".join(generator.choice(list(LETTERS[:26]), generator.integers(2, longest)))

    rows = [
        {"query": f"{word(9)} {word(6)}?", "choices": [word(9) for _ in range(3)], "gold": int(generator.integers(3))}
        for _ in range(count)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def slow_answers(model, tokenizer, path: Path):
    """(acc, acc_norm) of every question: likelihoods one choice at a time in float64."""
    model, right = model.double(), []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        query = tokenizer.encode(row["query"].rstrip())  # space before a choice belongs to the choice
        likelihoods = []
        for choice in row["choices"]:
            more = tokenizer.encode(row["query"] + " " + choice)[len(query) :]
            with torch.no_grad():
                logits = model(torch.tensor([query + more])).logits[0].log_softmax(-1)
            likelihoods.append(sum(logits[len(query) + i - 1, token].item() for i, token in enumerate(more)))
        per_character = [value / len(choice) for value, choice in zip(likelihoods, row["choices"], strict=True)]
        right.append([np.argmax(values) == row["gold"] for values in (likelihoods, per_character)])
    model.float()
    return np.array(right, dtype=float).T


def test_a_file_of_questions_is_answered_as_by_hand_with_the_standard_error_of_a_mean(tmp_path):
    model, tokenizer = character_model()
    path = questions(tmp_path / "quiz.jsonl", count=30)
    (answers,) = zeroshot.evaluate(model, tokenizer, [str(path)], limit=None, shots=None, batch=4)
    acc, acc_norm = slow_answers(model, tokenizer, path)
    assert (answers.scores["acc"] == acc).all() and (answers.scores["acc_norm"] == acc_norm).all()
    assert (acc != acc_norm).any(), "the two rules must differ for this test to say anything"
    figures = answers.figures
    assert figures["acc"] == pytest.approx(acc.mean())
    assert figures["acc_stderr"] == pytest.approx(acc.std(ddof=1) / np.sqrt(30))
    assert (figures["task"], figures["questions"], figures["shots"]) == ("quiz", 30, 0)


def test_a_limit_takes_the_first_questions(tmp_path):
    model, tokenizer = character_model()
    path = questions(tmp_path / "quiz.jsonl")
    (some,) = zeroshot.evaluate(model, tokenizer, [str(path)], limit=5, shots=None, batch=4)
    (every,) = zeroshot.evaluate(model, tokenizer, [str(path)], limit=None, shots=None, batch=4)
    assert (some.scores["acc"] == every.scores["acc"][:5]).all() and some.figures["questions"] == 5


def test_answers_are_paired_with_dense_question_by_question(tmp_path):
    answers = zeroshot.Answers({"task": "quiz", "acc": 0.5}, {"acc": np.array([1.0, 1.0, 0.0, 0.0])})
    found = zeroshot.compare(answers, {"acc": np.array([1.0, 1.0, 1.0, 1.0])}, draws=500)
    assert found["acc_diff"] == -0.5 and found["acc_diff_lo"] < -0.5 < found["acc_diff_hi"]
    with pytest.raises(InputError, match="quiz: dense was not asked the same"):
        zeroshot.compare(answers, {"acc": np.ones(3)}, draws=500)
    with pytest.raises(InputError, match="quiz: dense was not asked the same"):
        zeroshot.compare(answers, {}, draws=500)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 2: expected {query, choices, gold}"),
        ('{"query": "a", "gold": 0}', "line 2: expected {query, choices, gold}, found 'choices'"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "line 2: .* at least two"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "line 2: gold is 2, .* one of 2"),
        ('{"query": "a", "choices": ["b", "c"], "gold": true}', "line 2: gold is True"),
        ('"a"', "line 2: expected {query, choices, gold}, found a text"),
        ("[]", "line 2: expected {query, choices, gold}, found a JSON array"),
        ('{"query": null, "choices": ["b", "c"], "gold": 0}', "line 2: expected a text as `query`, found null"),
        ('{"query": " \\n", "choices": ["b", "c"], "gold": 0}', "line 2: .* `query` .* nothing but blanks"),
        ('{"query": "a", "choices": "bc", "gold": 0}', "line 2: .* a list of at least two, found a text"),
        ('{"query": "a", "choices": [1, 2], "gold": 0}', "line 2: expected a text as choice 0, found a number"),
        ('{"query": "a", "choices": ["a", null], "gold": 0}', "line 2: expected a text as choice 1, found null"),
        ('{"query": "a", "choices": ["a", 2], "gold": 0}', "line 2: expected a text as choice 1, found a number"),
        (
            '{"query": "a", "choices": ["a", " "], "gold": 0}',
            "line 2: expected a text as choice 1, found nothing in it",
        ),
        ('{"query": "a", "choices": ["b", "c", "b"], "gold": 2}', "line 2: expected one right choice, found 'b' more"),
        ('{"query": "\\ud83d", "choices": ["b", "c"], "gold": 0}', "line 2: expected a text as `query`, found half a"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, complaint):
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"query": "a", "choices": ["b", "c"], "gold": 1}\n' + line)
    with pytest.raises(InputError, match=complaint):
        zeroshot.read_questions(path)


def test_questions_are_read_as_all_texts_are(tmp_path):
    path = tmp_path / "quiz.jsonl"
    odd = '{"query": "a\u2028b\x85c\\r\\nd", "choices": ["\ufeffb", "c", "c"], "gold": 0}'
    path.write_bytes(f'\ufeff{{"query": "", "choices": ["b", "c"], "gold": 1}}\r\n\r\n{odd}\n\n'.encode())
    assert zeroshot.read_questions(path) == [
        {"query": "", "choices": ["b", "c"], "gold": 1, "line": 1},
        {"query": "a\u2028b\x85c\nd", "choices": ["b", "c", "c"], "gold": 0, "line": 3},  # equal wrong ones do no harm
    ]
    path.write_bytes(b'{"query": "", "choices": ["b", "c"], "gold": 1}\n{"query": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"quiz\.jsonl: expected UTF-8 text, found byte 0xe9 in line 2"):
        zeroshot.read_questions(path)


def test_questions_of_digits_and_of_what_looks_like_a_template_are_answered_as_by_hand(tmp_path):
    model, _ = character_model()
    tokenizer = character_tokenizer("abcdefghij 012{}'[]?\n")
    path = tmp_path / "quiz.jsonl"
    rows = [
        {"query": "12", "choices": ["ab", "ba", "12"], "gold": 1},
        {"query": "{{2}}", "choices": ["['a']", "{{a}}"], "gold": 0},
        {"query": "0 ", "choices": ["b a", "a", "a"], "gold": 0},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    (answers,) = zeroshot.evaluate(model, tokenizer, [str(path)], limit=None, shots=None, batch=4)
    acc, acc_norm = slow_answers(model, tokenizer, path)
    assert (answers.scores["acc"] == acc).all() and (answers.scores["acc_norm"] == acc_norm).all()


class Special:
    """A tokenizer with these ids; `knows` maps a text to its tokens."""

    def __init__(self, bos=None, eos=None, unk=None, **knows):
        self.bos_token_id, self.eos_token_id, self.unk_token_id, self.knows = bos, eos, unk, knows

    def encode(self, text):
        return self.knows.get({"\n": "line", " ": "blank"}[text], [])

    def get_vocab(self):
        return {"b": 4, "a": 3}


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (Special(bos=0, eos=0, line=[199]), None),  # as of every GPT-NeoX; lm-eval takes the beginning of a text
        (Special(bos=0, line=[199]), None),
        (Special(eos=0, line=[199]), None),
        (Special(bos=1, eos=2), None),
        (Special(line=[199]), 199),
        (Special(line=[0], blank=[7]), 0),
        (Special(unk=9, line=[9], blank=[7]), 7),
        (Special(unk=9, line=[9], blank=[9]), 3),
        (Special(blank=[7]), 7),
        (Special(), 3),
    ],
)
def test_a_text_begins_with_lm_evals_own_token_wherever_it_has_one(tokenizer, expected):
    assert zeroshot.prefix_token(tokenizer) == expected


def test_an_empty_query_stands_behind_the_token_0_where_that_begins_a_text(tmp_path):
    model, _ = character_model()
    tokenizer = character_tokenizer("\t" + LETTERS)
    tokenizer.bos_token = tokenizer.eos_token = "\t"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.encode("\n")) == (0, 0, [1])
    path = tmp_path / "quiz.jsonl"
    rows = [{"query": "", "choices": [a + b, b + "z"], "gold": 0} for a in "bcdefg" for b in "hijklmn"]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    (answers,) = zeroshot.evaluate(model, tokenizer, [str(path)], limit=None, shots=None, batch=4)
    right = []
    for row in rows:
        likelihoods = []
        for choice in row["choices"]:
            more = tokenizer.encode(" " + choice)
            with torch.no_grad():
                logits = model(torch.tensor([[0, *more]])).logits[0].log_softmax(-1)
            likelihoods.append(sum(logits[i, token].item() for i, token in enumerate(more)))
        right.append(float(np.argmax(likelihoods) == 0))
    assert answers.scores["acc"].tolist() == right


def test_a_missing_file_an_empty_one_and_a_choice_longer_than_the_context_are_refused(tmp_path):
    model, tokenizer = character_model(positions=8)
    with pytest.raises(InputError, match="no such file"):
        zeroshot.evaluate(model, tokenizer, [str(tmp_path / "no.jsonl")], limit=None, shots=None, batch=4)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="no questions"):
        zeroshot.evaluate(model, tokenizer, [str(tmp_path / "empty.jsonl")], limit=None, shots=None, batch=4)
    (tmp_path / "long.jsonl").write_text('\n\n{"query": "a", "choices": ["b", "a far longer choice"], "gold": 1}')
    with pytest.raises(InputError, match="line 3: a choice of 20 tokens, but this model's context is 8"):
        zeroshot.evaluate(model, tokenizer, [str(tmp_path / "long.jsonl")], limit=None, shots=None, batch=4)


def test_words_of_which_a_tokenizer_leaves_nothing_are_refused_by_line():
    def drops_all_but_ascii(texts, **_):
        return {"input_ids": [list("".join(text.split()).encode("ascii", errors="ignore")) for text in texts]}

    def check(query, choices):
        zeroshot.check_lengths(
            Path("x.jsonl"), [{"query": query, "choices": choices, "line": 7}], drops_all_but_ascii, 9
        )

    check("words", ["a", "b"])
    check("", ["a", "b"])
    with pytest.raises(InputError, match=r"x\.jsonl, line 7: .* no token of '中'"):
        check("words", ["a", "中"])
    with pytest.raises(InputError, match=r"x\.jsonl, line 7: .* no token of '中文'"):
        check("中文", ["a", "b"])


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_know_gets_its_nearest_names():
    with pytest.raises(InputError, match="no task 'arc_eesy'; nearest: arc_easy"):
        zeroshot.evaluate(*character_model(), ["arc_eesy"], limit=2, shots=None, batch=4)


@pytest.mark.skipif(not (SHARED / "zeroshot").is_dir(), reason="no question files beside this repository")
def test_a_real_pretrained_model_answers_real_questions_as_by_hand(tmp_path):
    folder = SHARED / "stories260K-hf"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    path = tmp_path / "piqa.jsonl"
    path.write_text("\n".join((SHARED / "zeroshot/piqa.jsonl").read_text().splitlines()[:15]))
    (answers,) = zeroshot.evaluate(model, tokenizer, [str(path)], limit=None, shots=None, batch=4)
    acc, acc_norm = slow_answers(model, tokenizer, path)
    assert (answers.scores["acc"] == acc).all() and (answers.scores["acc_norm"] == acc_norm).all()


def test_as_many_other_questions_are_refused():
    answers = zeroshot.Answers({"task": "arc_easy", "sha256": "01" * 32}, {"acc": np.ones(3)})
    same = {"acc": np.zeros(3), "sha256": np.full(32, 1, np.uint8)}
    assert zeroshot.compare(answers, same, 10)["acc_diff"] == 1.0
    with pytest.raises(InputError, match="task arc_easy: dense was not asked the same questions"):
        zeroshot.compare(answers, same | {"sha256": np.full(32, 2, np.uint8)}, 10)


def test_a_task_of_the_library_is_known_by_what_was_asked():
    samples = [{"doc_hash": "a", "prompt_hash": "b", "target_hash": "c"}]
    assert zeroshot._hash_of(samples) == zeroshot._hash_of([dict(samples[0])])
    assert zeroshot._hash_of([samples[0] | {"target_hash": "d"}]) != zeroshot._hash_of(samples)
    assert zeroshot._hash_of([]) is None
