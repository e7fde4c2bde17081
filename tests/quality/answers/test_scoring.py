"""Answers to files of questions against likelihoods computed by hand, and against lm-eval's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunelab.errors import InputError
from prunelab.models.workers import threads
from prunelab.quality.answers import likelihoods, scoring
from prunelab.training.characters import character_tokenizer
from tests.helpers.asking import LETTERS, character_model, model_that_says, questions, slow_answers
from tests.helpers.asking import likelihoods as by_hand

SHARED = Path(__file__).parents[3] / "../shared/data"


def ask(model, tokenizer, *paths, limit=None, chat=False, batch_tokens=256):
    names = [str(path) for path in paths]
    return scoring.evaluate(model, tokenizer, names, "a-50", limit=limit, chat_setting=chat, batch_tokens=batch_tokens)


def test_a_file_of_questions_is_answered_as_by_hand_with_the_standard_error_of_a_mean(tmp_path):
    model, tokenizer = character_model()
    path = questions(tmp_path / "quiz.jsonl", count=30)
    (answers,) = ask(model, tokenizer, path)
    acc, acc_norm = slow_answers(model, tokenizer, path)
    assert (answers.scores["acc"] == acc).all() and (answers.scores["acc_norm"] == acc_norm).all()
    assert (acc != acc_norm).any(), "the two rules must differ for this test to say anything"
    figures = answers.figures
    assert figures["acc"] == pytest.approx(acc.mean())
    assert figures["acc_stderr"] == pytest.approx(acc.std(ddof=1) / np.sqrt(30))
    assert (figures["task"], figures["questions"], figures["shots"]) == ("quiz", 30, 0)
    assert figures["chance"] == pytest.approx(1 / 3) and figures["chat"] is False
    gold = [json.loads(line) for line in path.read_text().splitlines()]
    slow = by_hand(model, tokenizer, path)
    right = [np.exp(one[row["gold"]]) / np.exp(one).sum() for one, row in zip(slow, gold, strict=True)]
    assert answers.scores["right_probability"] == pytest.approx(right, rel=1e-4)
    assert figures["query_tokens"] == np.mean([len(row["query"]) for row in gold])
    assert figures["answer_tokens"] == np.mean([1 + len(row["choices"][row["gold"]]) for row in gold])


def test_the_figures_are_those_of_lm_eval(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval, the extra `tasks`, is not installed")
    from tests.helpers.lm_eval_tasks import of_file

    model, tokenizer = character_model()
    path = questions(tmp_path / "quiz.jsonl", count=20)
    rows = path.read_text().splitlines()
    blanks = json.dumps({"query": "ab  ", "choices": ["cd", "efg hi"], "gold": 1})
    nothing = json.dumps({"query": "", "choices": ["cd", "efg"], "gold": 0})
    passage = [json.dumps({"query": f"{'long ' * 6}{q}?", "choices": ["no", "yes"], "gold": 0}) for q in ("ab", "cde")]
    cut = json.dumps({"query": f"{'longer ' * 9}?", "choices": ["no", "yes"], "gold": 0})
    path.write_text("\n".join([*rows, blanks, nothing, *passage, cut]))
    (mine,) = ask(model, tokenizer, path)
    theirs, found = of_file(model, tokenizer, path)
    for metric in ("acc", "acc_norm"):
        assert (mine.scores[metric] == theirs.scores[metric]).all()
        assert mine.figures[f"{metric}_stderr"] == pytest.approx(theirs.figures[f"{metric}_stderr"])
    gold = [json.loads(line)["gold"] for line in path.read_text().splitlines()]
    likely = [one[right] for one, right in zip(found, gold, strict=True)]
    assert mine.scores["right_loglikelihood"] == pytest.approx(likely, abs=1e-4)
    assert mine.scores["right_probability"] == pytest.approx(theirs.scores["right_probability"], abs=1e-4)
    assert theirs.figures["chance"] == mine.figures["chance"]


@pytest.mark.parametrize("kind", ["llama", "mistral", "mamba"])
def test_a_model_whose_cache_goes_on_answers_as_one_that_reads_whole_sequences(tmp_path, kind):
    model, tokenizer = character_model(kind=kind, **({"sliding_window": 8} if kind == "mistral" else {}))
    path = questions(tmp_path / "quiz.jsonl", count=8)
    (answers,) = ask(model, tokenizer, path)
    gold = [json.loads(line)["gold"] for line in path.read_text().splitlines()]
    slow = [one[right] for one, right in zip(by_hand(model, tokenizer, path), gold, strict=True)]
    assert answers.scores["right_loglikelihood"] == pytest.approx(slow, abs=1e-4)
    reader = likelihoods._Reader(model, lambda _: False, torch.device("cpu"))
    assert reader.goes_on == (kind == "llama")


def test_neither_threads_nor_batches_change_an_answer(tmp_path):
    model, tokenizer = character_model()
    path = questions(tmp_path / "quiz.jsonl", count=25)
    texts = [f"{'passage ' * 4}{word}?" for word in ("a", "bc", "de", "f")]
    path.write_text(
        "\n".join([path.read_text(), *(json.dumps({"query": t, "choices": ["ab", "c"], "gold": 0}) for t in texts)])
    )
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(json.dumps({"query": text, "answer": "ab"}) for text in texts))
    found = []
    for count, batch_tokens in ((1, 1), (1, 4096), (2, 128), (2, 4096)):
        with threads(count):
            found.append(ask(model, tokenizer, path, short, batch_tokens=batch_tokens))
    for other in found[1:]:
        for mine, first in zip(other, found[0], strict=True):
            assert mine.figures["acc"] == first.figures["acc"]
            assert mine.scores["right_loglikelihood"] == pytest.approx(first.scores["right_loglikelihood"], abs=1e-4)


def test_prompts_that_begin_alike_are_one_family_and_no_prompt_is_read_twice():
    passage = list(range(100, 130))
    items = [likelihoods.Asked([*passage, *more], [[1, 2]]) for more in ([5], [5, 6], [7, 8, 9])]
    others = [likelihoods.Asked([n, *range(40)], [[1]]) for n in (50, 60)]
    families = sorted(likelihoods._families([*items, *others]))
    assert families == [([], [3]), ([], [4]), (passage, [0, 1, 2])]


def test_a_limit_takes_the_first_questions(tmp_path):
    model, tokenizer = character_model()
    path = questions(tmp_path / "quiz.jsonl")
    (some,) = ask(model, tokenizer, path, limit=5)
    (every,) = ask(model, tokenizer, path)
    assert (some.scores["acc"] == every.scores["acc"][:5]).all() and some.figures["questions"] == 5


def test_a_written_answer_is_right_to_the_lines_end_after_normalisation():
    said = scoring.is_right
    assert said(" The Pacific Ocean.\nQuestion:", ["Pacific", "Pacific Ocean"])
    assert said(" mount everest, which is in Nepal", ["Mount Everest"])
    assert said("Mt. Everest", ["Mt. Everest"])
    assert said("\n Rome", ["Rome"])
    assert not said(" Rome is the capital of Italy", ["Rome"])
    assert not said(" not Rome", ["Rome"]) and not said("", ["Rome"])
    assert not said("8", ["18"]) and said("twenty-six", ["twenty six"])
    assert scoring.normalised("  A  Cat's, the—dog! ") == "cat s the—dog"


def test_short_answers_are_written_greedily_to_the_lines_end(tmp_path):
    model, tokenizer = model_that_says("q: rome\nxyz")
    path = tmp_path / "short.jsonl"
    asked = [
        {"query": "q:", "answer": "Rome"},
        {"query": "q:", "answers": ["ome", "Rom"]},
        {"query": "q: r", "answer": "ome"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in asked))
    (answers,) = ask(model, tokenizer, path)
    assert answers.scores["acc"].tolist() == [1.0, 0.0, 1.0]
    assert answers.figures["chance"] == 0.0 and "acc_norm" not in answers.figures
    assert answers.figures["answer_tokens"] == pytest.approx((5 + 4 + 4) / 3)


def test_the_probability_of_a_written_answer_is_that_of_its_likeliest_spelling(tmp_path):
    model, tokenizer = character_model()
    query, path, spellings = "what now?", tmp_path / "short.jsonl", [" zzzz", " zz"]
    path.write_text(json.dumps({"query": query, "answers": [one.strip() for one in spellings]}))
    (answers,) = ask(model, tokenizer, path)
    assert answers.figures["right_probability_stderr"] is None  # one question alone has no error
    nats = []
    for spelling in spellings:
        more = tokenizer.encode(spelling)
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(query) + more])).logits[0].log_softmax(-1)
        nats.append(sum(logits[len(query) + i - 1, token].item() for i, token in enumerate(more)))
    assert answers.scores["right_loglikelihood"] == pytest.approx(max(nats), abs=1e-4)
    assert answers.scores["right_probability"] == pytest.approx(np.exp(max(nats)), rel=1e-3)


TEMPLATE = "{% for m in messages %}u {{ m['content'] }}z\n{% endfor %}{% if add_generation_prompt %}a {% endif %}"


def test_questions_become_a_users_turn_where_the_model_ends_its_turns(tmp_path):
    model, tokenizer = character_model()
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({"query": "ab ", "choices": ["cd", "e"], "gold": 1}))
    with pytest.raises(InputError, match="quality.questions.chat: true, but .* has no chat template; set auto"):
        ask(model, tokenizer, path, chat=True)
    assert ask(model, tokenizer, path, chat="auto")[0].figures["chat"] is False
    tokenizer.chat_template = TEMPLATE
    assert ask(model, tokenizer, path, chat="auto")[0].figures["chat"] is False  # nothing ends its texts
    tokenizer.eos_token = "z"
    (found,) = ask(model, tokenizer, path, chat="auto")
    assert found.figures["chat"] is True
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"query": "u abz\na", "choices": ["cd", "e"], "gold": 1}))
    (same,) = ask(model, tokenizer, plain, chat=False)
    assert found.figures["query_tokens"] == same.figures["query_tokens"] + 1  # its space belongs to the turn
    assert ask(model, tokenizer, path, chat=False)[0].figures["chat"] is False


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
    (answers,) = ask(model, tokenizer, path)
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
    assert scoring.prefix_token(tokenizer) == expected


def test_an_empty_query_stands_behind_the_token_0_where_that_begins_a_text(tmp_path):
    model, _ = character_model()
    tokenizer = character_tokenizer("\t" + LETTERS)
    tokenizer.bos_token = tokenizer.eos_token = "\t"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.encode("\n")) == (0, 0, [1])
    path = tmp_path / "quiz.jsonl"
    rows = [{"query": "", "choices": [a + b, b + "z"], "gold": 0} for a in "bcdefg" for b in "hijklmn"]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    (answers,) = ask(model, tokenizer, path)
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
        ask(model, tokenizer, tmp_path / "no.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="no questions"):
        ask(model, tokenizer, tmp_path / "empty.jsonl")
    (tmp_path / "long.jsonl").write_text('\n\n{"query": "a", "choices": ["b", "a far longer choice"], "gold": 1}')
    with pytest.raises(InputError, match="line 3: a choice of 20 tokens, but this model's context is 8"):
        ask(model, tokenizer, tmp_path / "long.jsonl")


def test_words_of_which_a_tokenizer_leaves_nothing_are_refused_by_line():
    def check(query, choices):
        def ids(text):
            return list("".join(text.split()).encode("ascii", errors="ignore"))

        row = {"query": query, "choices": choices, "line": 7}
        before = ids(query) or ([] if query else [0])
        scoring.check_lengths(Path("x.jsonl"), [row], [likelihoods.Asked(before, [ids(one) for one in choices])], 9)

    check("words", ["a", "b"])
    check("", ["a", "b"])
    with pytest.raises(InputError, match=r"x\.jsonl, line 7: .* no token of '中'"):
        check("words", ["a", "中"])
    with pytest.raises(InputError, match=r"x\.jsonl, line 7: .* no token of '中文'"):
        check("中文", ["a", "b"])


@pytest.mark.skipif(not (SHARED / "zeroshot").is_dir(), reason="no question files beside this repository")
def test_a_real_pretrained_model_answers_real_questions_as_by_hand(tmp_path):
    folder = SHARED / "stories260K-hf"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    path = tmp_path / "piqa.jsonl"
    path.write_text("\n".join((SHARED / "zeroshot/piqa.jsonl").read_text().splitlines()[:15]))
    (answers,) = ask(model, tokenizer, path)
    acc, acc_norm = slow_answers(model, tokenizer, path)
    assert (answers.scores["acc"] == acc).all() and (answers.scores["acc_norm"] == acc_norm).all()
