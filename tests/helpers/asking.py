"""Models and questions small enough to answer by hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prunelab.training.characters import character_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz ?\n"


def character_model(positions=64, kind="gpt2", letters=LETTERS, **config):
    """A random model of two layers over `letters`, whose answers are not all alike, and its tokenizer."""
    torch.manual_seed(0)
    sizes = {
        "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": positions},
        "llama": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32,
                  "max_position_embeddings": positions},
        "mistral": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 16,
                    "intermediate_size": 32, "max_position_embeddings": positions},
        "mamba": {"num_hidden_layers": 2, "hidden_size": 16, "state_size": 4, "expand": 2},
    }[kind]  # fmt: skip
    tokenizer = character_tokenizer(letters)
    settings = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2} | sizes | config
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model, tokenizer


def model_that_says(chain: str):
    """A model (and its tokenizer) that after each letter of `chain`, all of them different, says the next one."""
    tokenizer = character_tokenizer(chain)
    size = len(tokenizer) + len(tokenizer) % 2
    config = AutoConfig.for_model(
        "llama", num_hidden_layers=1, num_attention_heads=1, hidden_size=size, intermediate_size=2, vocab_size=size,
        max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = tokenizer.encode(chain)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                parameter.zero_()  # attention and neurons add nothing to what a token is
        model.get_input_embeddings().weight.copy_(torch.eye(size))
        for here, following in itertools.pairwise(ids):
            model.lm_head.weight[following, here] = 2.0
    return model, tokenizer


def questions(path: Path, count=12, seed=0) -> Path:
    """A file of random questions with three choices of 2 to 8 letters."""
    generator = np.random.default_rng(seed)

    def word(longest):
        return "".join(generator.choice(list(LETTERS[:26]), generator.integers(2, longest)))

    rows = [
        {"query": f"{word(9)} {word(6)}?", "choices": [word(9) for _ in range(3)], "gold": int(generator.integers(3))}
        for _ in range(count)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def likelihoods(model, tokenizer, path: Path) -> list[list[float]]:
    """The log-likelihood of every choice, one at a time, of whole sequences, in float64."""
    model, found = model.double(), []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        query = tokenizer.encode(row["query"].rstrip())  # space before a choice belongs to the choice
        of_row = []
        for choice in row["choices"]:
            more = tokenizer.encode(row["query"] + " " + choice)[len(query) :]
            with torch.no_grad():
                logits = model(torch.tensor([query + more])).logits[0].log_softmax(-1)
            of_row.append(sum(logits[len(query) + i - 1, token].item() for i, token in enumerate(more)))
        found.append(of_row)
    model.float()
    return found


def slow_answers(model, tokenizer, path: Path) -> np.ndarray:
    """(acc, acc_norm) of every question: (2, questions)."""
    right = []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for row, values in zip(lines, likelihoods(model, tokenizer, path), strict=True):
        per_character = [value / len(choice) for value, choice in zip(values, row["choices"], strict=True)]
        right.append([np.argmax(one) == row["gold"] for one in (values, per_character)])
    return np.array(right, dtype=float).T
