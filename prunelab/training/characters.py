"""A tokenizer with one token a character, in the library's own format, so that any tool can load it."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNKNOWN = "[UNK]"


def character_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """One token for each distinct character of `text`, in code-point order, and one for unknown ones (the last id)."""
    alphabet = sorted(set(text))
    vocabulary = {character: index for index, character in enumerate([*alphabet, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, clean_up_tokenization_spaces=False, model_max_length=int(1e12)
    )
