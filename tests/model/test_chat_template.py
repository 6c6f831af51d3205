"""The gate for chat templates: what honest models come with passes, everything else is refused with its line."""

from __future__ import annotations

import time

import pytest
from tests.hostile.templates import HONEST, HOSTILE

from allod.core.errors import Invalid
from allod.model.network.tokenizer_files import CHAT_TEMPLATE
from allod.model.templates.gate import check_template


def refused(template: str) -> str:
    with pytest.raises(Invalid) as caught:
        check_template(template)
    assert caught.value.code == "template_refused"
    return caught.value.message


@pytest.mark.parametrize(("name", "template"), HONEST, ids=lambda value: value if len(value) < 50 else "")
def test_an_honest_template_passes(name: str, template: str) -> None:
    """The families' public shapes, with tools, thoughts and macros."""
    check_template(template)


@pytest.mark.parametrize(("name", "template"), HOSTILE, ids=lambda value: value if len(value) < 50 else "")
def test_a_hostile_template_is_refused_with_its_line(name: str, template: str) -> None:
    """Before an engine sees it."""
    assert "is refused at line " in refused(template)


def test_what_training_exports_passes() -> None:
    """ChatML as it is written into every model of one's own."""
    assert check_template(CHAT_TEMPLATE).cuts == frozenset()


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("a\nb\u2060c", "line 2: it holds the invisible U+2060"),
        ("a\n{% for m in messages recursive %}{{ m }}{% endfor %}", "line 2: a recursive loop is not allowed"),
    ],
)
def test_what_nothing_else_would_refuse_is_refused(template: str, told: str) -> None:
    """The word joiner in the template's own text, and a recursive loop that does not call itself yet."""
    assert told in refused(template)


def test_a_long_template_is_looked_through_at_once() -> None:
    """As many names, macros and rings as there may be parts: no work is their square."""
    calls = (f"{{% macro f{n}(p) %}}{{{{ f0(p) }}}}{{% endmacro %}}" for n in range(1, 1400))
    macros = "{% macro f0(p) %}{{ p }}{% endmacro %}" + "".join(calls)
    names = "".join(f"{{% set x{n + 1} = x{n} %}}" for n in range(4500)) + "{% set x0 = x4500 %}"
    for template in (macros, names):
        begin = time.process_time()
        check_template(template)
        assert time.process_time() - begin < 10


FILTERS = (
    "attr center filesizeformat forceescape format pprint random slice striptags urlencode urlize wordwrap xmlattr"
)


@pytest.mark.parametrize("name", FILTERS.split())
def test_a_filter_that_no_template_needs_is_refused(name: str) -> None:
    """Though jinja2 has it: some make much of little, the others are one thing more to get wrong."""
    assert f"the filter '{name}' is not allowed" in refused(f"{{{{ x|{name} }}}}")


@pytest.mark.parametrize("name", ["escaped", "filter", "test"])
def test_a_test_that_no_template_needs_is_refused(name: str) -> None:
    """Two of them ask what the interpreter has."""
    assert f"the test '{name}' is not allowed" in refused(f"{{{{ x is {name} }}}}")


METHODS = "center clear encode expandtabs format format_map ljust mro popen remove setdefault translate zfill"


@pytest.mark.parametrize("name", METHODS.split())
def test_a_method_that_no_template_needs_is_refused(name: str) -> None:
    """Some fill up to any width, some reach what is not the chat's."""
    assert f"the method {name!r} is not allowed" in refused(f"{{{{ x.{name}() }}}}")


@pytest.mark.parametrize("name", ["lipsum", "self", "super", "messages"])
def test_a_function_that_no_template_needs_is_refused(name: str) -> None:
    """What is called is listed, or a macro of the template's own."""
    assert f"a call of '{name}' is not allowed" in refused(f"{{{{ {name}() }}}}")


def test_the_line_and_what_stands_there_are_named() -> None:
    """An operator can look at it."""
    assert (
        refused("a\n\n{{ x|attr('y') }}") == "the chat template is refused at line 3: the filter 'attr' is not allowed"
    )
    assert (
        refused("a\n{{ x.__class__ }}") == "the chat template is refused at line 2: the name '__class__' is not allowed"
    )


def test_what_a_template_takes_out_of_texts_is_told() -> None:
    """So that no text can hide a control token around it."""
    cutting = "{{ a.split('</think>')[-1].strip('\\n') }}{{ b|replace('<x>', '') }}{{ d.split() }}{{ e.rsplit('<y>') }}"
    trimming = "{{ c.strip('*') }}{{ c.lstrip('#') }}{{ c.rstrip('%') }}{{ c|trim('=') }}"
    assert check_template(cutting + trimming).cuts == {"</think>", "<x>", "<y>", " ", *"*#%="}


def test_what_a_template_writes_itself_is_told() -> None:
    """So that no text ends a control token that the template begins."""
    template = "[{% for m in messages %}{{ '<|' + m.role + \"|>\\n\" }}{{ m.content }}{% endfor %}"
    assert check_template(template).written == {"[", "<|", "|>\n"}
