"""Prompts as turns of a chat: the template's own words, its special tokens once, the same on every day."""

import pytest

from prunelab.errors import InputError
from prunelab.quality import chat
from prunelab.training.characters import character_tokenizer

TEMPLATE = (
    "{{ bos_token }}{{ date_string }}{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</{{ turn.role }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(template=None):
    """One of characters, which puts `^` before every text."""
    from tokenizers.processors import TemplateProcessing

    made = character_tokenizer("abcdefghijklmnopqrstuvwxyzJ <>/^0246")
    made.bos_token = "^"
    start = ("^", made.convert_tokens_to_ids("^"))
    made.backend_tokenizer.post_processor = TemplateProcessing(single="^ $A", special_tokens=[start])
    made.chat_template = template
    return made


def test_a_prompt_is_a_users_turn_up_to_where_the_answer_begins():
    assert chat.as_turn(tokenizer(TEMPLATE), "say it") == "^26 Jul 2024<user>say it</user><assistant>"


def test_a_tokenizer_without_a_template_leaves_the_prompt_alone():
    plain = tokenizer()
    assert not chat.has_template(plain) and chat.as_turn(plain, "say it") == "say it"
    assert chat.token_ids(plain, "say", chat=True) == chat.token_ids(plain, "say", chat=False)


def test_the_special_token_of_the_beginning_stands_there_once():
    made = tokenizer(TEMPLATE)
    start = made.convert_tokens_to_ids("^")
    for chosen in (True, False):
        ids = chat.token_ids(made, "say", chat=chosen)
        assert ids[0] == start and ids.count(start) == 1
    assert len(chat.token_ids(made, "say", chat=True)) > len(chat.token_ids(made, "say", chat=False)) == 4


def test_a_template_that_takes_no_turn_of_a_user_is_told_in_one_line():
    with pytest.raises(InputError, match="a user's turn, found: only systems speak; set chat: false"):
        chat.as_turn(tokenizer("{{ raise_exception('only systems speak') }}"), "say it")
