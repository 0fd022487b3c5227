"""Chat templates: the date that they print, and the token with which they end a turn of the assistant."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rkd.data.chat_templates import DATE, turn_end
from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.errors import ModelError
from rkd.records import Query
from rkd.store.fingerprint import as_fingerprint, fingerprint_digest
from tests.support import tiny_tokenizers
from tests.support.tiny_tokenizers import CHATML, LAYOUTS, added

PROMPT = PromptTemplate(template="{question}")
QUERY = Query("q", "gsm8k", "What is 4! + 1?")


CONF = Path(__file__).parents[2] / "conf"


def composed_prompts(*overrides: str) -> list[PromptTemplate | JudgePrompt]:
    """The prompts of teacher, student and judge, of the paper's and of the mini models."""
    prompts = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for scale in ("scale=paper", "scale=mini"):
            config = compose("config", overrides=[scale, "judge=teacher", *overrides])
            prompts += [instantiate(config[role].prompt) for role in ("teacher", "student", "judge")]
    return prompts


def chat(template: str, *, date: str = DATE, tokenizer=None) -> str:
    """What a template writes for one question."""
    asked = tokenizer or tiny_tokenizers.qwen(chat_template=template)
    return PromptTemplate(template="{question}", date=date).render_chat(QUERY, asked)


def test_a_template_that_prints_todays_date_prints_a_fixed_one():
    assert "Today Date: 26 Jul 2024\n" in chat("", tokenizer=tiny_tokenizers.llama3())
    assert "Today Date: 03 Feb 2025\n" in chat("", date="2025-02-03", tokenizer=tiny_tokenizers.llama3())


@pytest.mark.parametrize(
    ("template", "written"),
    [
        # 3 February 2025 was a Monday, and the 34th day of its year.
        ("{{ strftime_now('%Y-%m-%d') }}", "2025-02-03"),
        ("{{ strftime_now('%A, %B %-d, %Y (%a %b, %j, %y)') }}", "Monday, February 3, 2025 (Mon Feb, 034, 25)"),
        ("{{ strftime_now('%H:%M:%S %p %I %-I') }}", "00:00:00 AM 12 12"),
        ("{{ strftime_now('100 %% of %%d') }}", "100 % of %d"),
        ("{{ strftime_now('no directive') }}", "no directive"),
        ("{% set form = '%d/%m' %}{{ strftime_now(form) }}", "03/02"),
        ("{{ strftime_now('%Y').split('0')[0] }} {{ (strftime_now('%d') | int) - 1 }}", "2 2"),
        ("{% macro head() %}{{ strftime_now('%d') }}{% endmacro %}{{ head() }}", "03"),
        ("{% set now = strftime_now %}{{ now('%d') }}{{ strftime_now is defined }}", "03True"),
        ("{% if date_string is defined %}{{ date_string }}{% endif %}", "03 Feb 2025"),
        ("\n  {{ strftime_now('%d') }}\n{{ messages[0].content }}", "\n  03\nWhat is 4! + 1?"),
    ],
)
def test_each_way_of_asking_for_the_date_gives_the_fixed_one(template, written):
    assert chat(template, date="2025-02-03") == written


def test_one_of_several_templates_prints_the_fixed_date_too():
    several = {"default": "{{ strftime_now('%d') }}", "tool_use": "tools"}
    assert chat(several, date="2025-02-03") == "03"


def test_a_judges_prompt_has_the_fixed_date():
    tokenizer = tiny_tokenizers.llama3()
    first, second = (
        tokenizer.decode(JudgePrompt(date=date).encode([QUERY], ["4"], tokenizer)[0]) for date in (DATE, "2025-02-03")
    )
    assert "Date: 26 Jul 2024" in first
    assert "Date: 03 Feb 2025" in second


@pytest.mark.parametrize("date", ["26 Jul 2024", "today", "", "2024-02-30", None])
def test_a_date_that_is_none_is_refused(date):
    for make in (lambda: PromptTemplate(template="{question}", date=date), lambda: JudgePrompt(date=date)):
        with pytest.raises(ValueError, match="write it as 2024-07-26, year, month and day"):
            make()


@pytest.mark.parametrize("kind", [lambda **own: PromptTemplate(template="{question}", **own), JudgePrompt])
def test_another_date_is_another_fingerprint_and_the_usual_one_has_no_part_in_it(kind):
    assert "date" not in as_fingerprint(kind())
    assert as_fingerprint(kind())["template"] == kind().template
    digests = {fingerprint_digest("x", {"prompt": kind(**own)}) for own in ({}, {"date": "2025-02-03"})}
    assert len(digests) == 2


def test_the_key_of_a_config_sets_the_date_of_all_prompts():
    usual = composed_prompts()
    assert {prompt.date for prompt in usual} == {DATE}
    set_once = composed_prompts("prompts.date=2025-02-03")
    assert len(set_once) == 6
    assert {prompt.date for prompt in set_once} == {"2025-02-03"}


@pytest.mark.parametrize(
    ("layout", "end"),
    [
        ("gemma", "<end_of_turn>"),
        ("qwen", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("mistral", "</s>"),  # after a blank
        ("gpt2", None),
        ("t5", None),
    ],
)
def test_a_response_ends_with_the_token_that_ends_a_turn(layout, end):
    tokenizer = LAYOUTS[layout]()
    found = PROMPT.end_id(tokenizer)
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == end
    (row,) = PROMPT.encode_responses(["6"], [True], tokenizer)
    assert tokenizer.convert_ids_to_tokens(row[-1]) == (end or tokenizer.eos_token)
    assert PROMPT.encode_responses(["6"], [False], tokenizer) == [row[:-1]]


def test_in_plain_text_a_chat_model_ends_with_the_end_of_sequence():
    tokenizer = tiny_tokenizers.gemma()
    plain = PromptTemplate(template="{question}", is_chat=False)
    assert plain.end_id(tokenizer) is None
    assert plain.encode_responses(["6"], [True], tokenizer)[0][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),  # a turn ends with a line
        ("{% for m in messages %}{{ m.content }}<|im_end|><|endoftext|>{% endfor %}", "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}", "<|endoftext|>"),
        ("{% for m in messages %}{{ m.content }} .\n <turn>{% endfor %}", "<turn>"),  # added, but not special
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}", None),
        (CHATML.replace("{% if add_generation_prompt %}", "{% if true %}"), "<|im_end|>"),
    ],
)
def test_the_end_of_a_turn_is_the_first_added_token_after_the_assistants_text(template, end):
    tokenizer = tiny_tokenizers.qwen(chat_template=template)
    tokenizer.add_tokens([added("<turn>", special=False)])
    found = turn_end(tokenizer)
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == end


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no system turn') }}", "{% if %}", "{{ messages[0].nothing.more }}"]
)
def test_a_template_that_fails_is_reported_with_the_key_that_does_without_it(template):
    tokenizer = tiny_tokenizers.qwen(chat_template=template)
    for use in (lambda: PROMPT.encode([QUERY], tokenizer), lambda: PROMPT.end_id(tokenizer)):
        with pytest.raises(ModelError, match=r"chat template .*`dataset\.prompt\.is_chat=false"):
            use()


def test_the_keys_that_ask_in_plain_text_exist():
    prompts = composed_prompts("dataset.prompt.is_chat=false", "judge.prompt.is_chat=false")
    assert [prompt.is_chat for prompt in prompts[:3]] == [False] * 3


def test_a_chat_prompt_has_one_beginning_of_text_and_no_end():
    tokenizer = tiny_tokenizers.mistral()
    (row,) = PROMPT.encode([QUERY], tokenizer)
    assert row.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in row
