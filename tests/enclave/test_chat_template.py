"""Chat templates: what they write, as transformers writes it, and which are refused at load."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

import enclave.guest
from enclave.guest.engines.base import FieldRefused
from enclave.guest.engines.chat_template import STEPS_PER_TURN, ChatTemplate, TemplateRefused
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.model import read_model

MODEL = read_model(Path(enclave.guest.__file__).parent / "demo_model")
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = """{{- bos_token }}
{%- if strftime_now is defined %}{% set today = strftime_now("%d %b %Y") %}{% else %}
{%- set today = "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}{%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- else %}{{- " " + message["content"]|trim + eos_token }}{%- endif %}
{%- endfor %}"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' "
    "+ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
QWEN = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- macro said(message) %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- endmacro %}
{%- for message in messages %}
    {%- if message.role == "assistant" and '</think>' in message.content %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}{{- said(message) + '<|im_end|>' + '\\n' }}{%- endif %}
    {%- if loop.previtem is defined and loop.previtem.role == "tool" %}{{- "x" }}{%- endif %}
    {%- if loop.index0 > ns.last_query_index %}{%- continue %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{% set said = m.content %}{{ said }}{% endgeneration %}{% else %}{{ m.role }}: "
    "{{ m.content | tojson(indent=2) }}{% endif %}{{ '\n' }}{% endfor %}"
)
GOOD = {
    "ChatML": CHATML, "Llama": LLAMA, "Mistral": MISTRAL, "Gemma": GEMMA, "Qwen": QWEN,
    "generation": GENERATION, "plain": TURNS,
}  # fmt: skip


def conversation(*contents: str) -> list[dict[str, str]]:
    """Questions and answers in turn."""
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


SYSTEM = {"role": "system", "content": " Be kind.\n"}
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=8)
@example(["a", "<think>b</think>c", " d "], True)
@given(st.lists(texts, min_size=1, max_size=5), st.booleans())
def test_it_writes_what_transformers_writes(
    name: str, contents: list[str], with_system: bool
) -> None:
    source = GOOD[name].replace("{%- if strftime_now is defined %}", "{%- if false %}")
    turns = [SYSTEM] * (with_system and name != "Gemma") + conversation(*contents)
    theirs, _ = render_jinja_template(
        [turns], chat_template=source, add_generation_prompt=True, **NAMES
    )
    assert template(GOOD[name]).render(turns) == theirs[0]


@functools.cache
def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, NAMES)


def test_a_system_turn_that_a_template_has_no_place_for_is_told_in_its_words() -> None:
    turns = [{"role": "system", "content": "x"}, *conversation("y")]
    with pytest.raises(FieldRefused, match="template says: System role not supported"):
        ChatTemplate(GEMMA, NAMES).render(turns)


BAD = {
    "no template": ("{% for m in messages %}", "got other text .TemplateSyntaxError"),
    "an unknown filter": ("{{ messages | shorten }}", "got other text .TemplateAssertion"),
    "an attribute of nothing": (TURNS + "{{ tools.functions[0].name }}", "ended with Undefined"),
    "a function that there is not": (TURNS + "{{ strftime_now('%Y') }}", "ended with Undefined"),
    "null content": (
        "{% for m in messages %}{{ m.content[0] ~ m.content[1:] }}{{ 1 // m.content|length }}"
        "{% endfor %}",
        "system, user, assistant, user.*ended with ZeroDivisionError",
    ),
    "a turn alone": (TURNS + "{{ messages[1].content }}{{ messages[1].content.x.y }}", "Undefined"),
    "its own words": (TURNS + "{{ raise_exception('never ask') }}", "it says: never ask"),
    "nothing written": ("Hello.", "the turn of the system is missing"),
    "no system turn": (
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        "the turn of the system is missing from a conversation of system, user, assistant, user",
    ),
    "no answer": (
        "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
        "the turn of the assistant is missing",
    ),
    "the last turn only": ("{{ messages[-1].content }}", "the turn of the system is missing"),
    "a question that is alone": (
        "{% for m in messages if messages|length > 1 %}{{ m.content }}{% endfor %}",
        "the turn of the user is missing from a conversation of user",
    ),
    "a long loop": (
        TURNS + "{% for i in range(99999) %}{% endfor %}", "more than 4096 steps for each turn",
    ),
    "a loop in a loop": (
        TURNS + "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "more than 4096 steps",
    ),
    "a loop of too many": (TURNS + "{% for i in range(999999) %}{% endfor %}", "OverflowError"),
    "a macro that calls itself twice": (
        TURNS + "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(30) }}",
        "more than 4096 steps",
    ),
    "a loop that calls itself": (
        TURNS + "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "but it",
    ),
    "the sandbox": (TURNS + "{{ messages.__class__.__mro__ }}", "SecurityError"),
    "chance": (TURNS + "{{ messages | map(attribute='role') | random }}", "got other text"),
    "more chance": (TURNS + "{{ lipsum(1) }}", "ended with UndefinedError"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "text"), BAD.values(), ids=BAD)
def test_a_template_that_cannot_serve_is_refused(source: str, text: str) -> None:
    with pytest.raises(TemplateRefused, match=rf"^chat_template: expected .*{text}") as caught:
        ChatTemplate(source, NAMES)
    assert caught.value.code == "chat-template" and caught.value.exit_code == 3


@pytest.mark.parametrize("source", ["{{ messages[-1].content }}", "{% for"])
def test_it_is_refused_when_the_model_is_loaded(source: str) -> None:
    for name, content in (
        ("chat_template.jinja", source.encode()),
        ("chat_template.jinja", b"\xff"),
        ("tokenizer_config.json", b'{"chat_template": ["a", "list"]}'),
    ):
        files = {**MODEL.files, name: bytearray(content)}
        if name != "chat_template.jinja":
            del files["chat_template.jinja"]
        with pytest.raises(TemplateRefused, match="chat_template"):
            TorchEngine(replace(MODEL, files=files))


def test_a_model_without_a_template_is_no_fault() -> None:
    files = {k: v for k, v in MODEL.files.items() if k != "chat_template.jinja"}
    TorchEngine(replace(MODEL, files=files))


def test_a_request_takes_no_more_steps_than_its_turns_allow() -> None:
    """A template that takes many only for what somebody asks."""
    source = TURNS + "{% for i in range(messages[-1].content|length) %}{% endfor %}"
    found = ChatTemplate(source, NAMES)
    assert found.render(conversation("x" * (STEPS_PER_TURN - 9)))
    with pytest.raises(FieldRefused, match="ended with _TooManySteps") as caught:
        found.render(conversation("x" * STEPS_PER_TURN))
    assert caught.value.param == "messages" and "xxx" not in str(caught.value)


def test_an_error_of_a_template_quotes_no_message() -> None:
    found = ChatTemplate(TURNS + "{{ {}[messages[0].content][1] if messages|length > 9 }}", {})
    with pytest.raises(FieldRefused) as caught:
        found.render(conversation(*["secret"] * 10))
    assert "secret" not in str(caught.value) and caught.value.__suppress_context__
