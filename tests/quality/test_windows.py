"""Text to windows: nothing lost, nothing counted twice, bytes exact."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prunelab.errors import InputError
from prunelab.quality import windows
from prunelab.training.characters import character_tokenizer

TEXT = "O, wond’rous — naïve! 𝕏 end" * 20


def byte_level() -> PreTrainedTokenizerFast:
    """One token a byte, so that ’ is three tokens and 𝕏 four; `<s>` in front, as Llama's tokenizer does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def test_windows_of_a_character_tokenizer_stand_for_exactly_their_own_bytes():
    tokenizer = character_tokenizer(TEXT)
    ids, ends = windows.tokenise(tokenizer, TEXT)
    cut = windows.cut(ids, ends, context=7, limit=None)
    assert len(cut.tokens) == len(TEXT) // 7
    for i, tokens in enumerate(cut.tokens):
        assert tokenizer.decode(tokens.tolist()) == TEXT[7 * i : 7 * i + 7]
        assert cut.bytes[i] == len(TEXT[7 * i + 1 : 7 * i + 7].encode())
        assert TEXT.encode()[slice(*cut.spans[i])].decode() == TEXT[7 * i : 7 * i + 7]


def test_a_character_split_over_tokens_is_counted_once_wherever_a_window_ends():
    ids, ends = windows.tokenise(byte_level(), TEXT)
    assert len(ids) == len(TEXT.encode()) + 1
    for context in (2, 3, 5, 7):
        cut = windows.cut(ids, ends, context, None)
        firsts = ends[: len(cut.tokens) * context : context]
        unscored = np.diff(np.concatenate([[0], ends]))[: len(cut.tokens) * context : context]
        assert firsts[0] == 0  # <s> stands for no byte
        assert cut.bytes.sum() + unscored.sum() == ends[len(cut.tokens) * context - 1]


def test_limited_windows_are_spread_over_the_text_and_so_are_the_leading_ones():
    ids = np.arange(1000, dtype=np.int32)
    cut = windows.cut(ids, ids.astype(np.int64), context=10, limit=20, first=4)
    starts = cut.tokens[:, 0] // 10
    assert sorted(starts) == list(range(0, 100, 5))
    assert list(starts[:4]) == [0, 25, 50, 75]


def test_spread_takes_everything_when_more_is_wanted_than_there_is():
    assert list(windows.spread(3, 5)) == [0, 1, 2]
    assert list(windows.spread(3, None)) == [0, 1, 2]
    assert list(windows.spread(10, 3)) == [0, 3, 6]


def test_a_text_shorter_than_one_window_is_refused_with_both_numbers():
    with pytest.raises(InputError, match=r"64 tokens a window.*only 3"):
        windows.cut(np.zeros(3, np.int32), np.zeros(3, np.int64), 64, None)


def test_a_tokenizer_that_knows_no_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow"):
        windows.tokenise(Slow(), TEXT)
