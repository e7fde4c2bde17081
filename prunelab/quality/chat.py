"""A prompt as a user's turn, for models that were taught to answer in a chat."""

from jinja2 import TemplateError

from prunelab.errors import InputError

# Templates such as Llama 3.2's write the date of today where none is given: another prompt every day. This is the one
# that Llama's own falls back to.
DATE = "26 Jul 2024"


def has_template(tokenizer) -> bool:
    """Whether the tokenizer (of transformers) says how a chat is written."""
    return bool(getattr(tokenizer, "chat_template", None))


def as_turn(tokenizer, text: str) -> str:
    """`text` as the first turn of a user, up to where the answer begins; the text itself where there is no template.

    A template writes the special tokens that it wants, so what comes is tokenised without others (`token_ids`).
    Raises InputError for a template that can't be filled in.
    """
    if not has_template(tokenizer):
        return text
    return _filled(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)


def ends_its_turns(tokenizer) -> bool:
    """Whether the template ends a turn with the token that ends this model's texts.

    That is the mark of a model that was taught to. A base model may ship its sibling's template, but ends its texts
    with another token (Qwen2.5); of a model of chats that does so too (Gemma) this says no.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    end = tokenizer.eos_token
    return bool(end) and _filled(tokenizer, turns).rstrip().endswith(end)


def _filled(tokenizer, turns: list[dict], **more) -> str:
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, date_string=DATE, **more)
    except (TemplateError, TypeError, ValueError) as error:  # also a tokenizer with several templates and no default
        reason = " ".join(str(error).split())
        raise InputError(
            f"the chat template of this model's tokenizer: expected one that takes a user's turn, found: {reason}; "
            "set chat: false"
        ) from None


def token_ids(tokenizer, text: str, chat: bool) -> list[int]:
    """The token ids of a prompt: with `chat` as a user's turn where there is a template, else as a text begins."""
    if chat and has_template(tokenizer):
        return tokenizer(as_turn(tokenizer, text), add_special_tokens=False)["input_ids"]
    return tokenizer(text)["input_ids"]
