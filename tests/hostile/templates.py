# ruff: noqa: E501 - templates are as long as they are
"""Chat templates as data: programs of a stranger's that are refused, and those that honest models come with.

`HONEST` and `HOSTILE` have (name, template). The honest ones have the public shapes of model families, written
anew: their loops, conditions, macros, filters and methods.
"""

from __future__ import annotations

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}
{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

_LLAMA3 = """{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}
{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}
{%- set system_message = "" %}{%- endif %}{{- "<|start_header_id|>system<|end_header_id|>\n\n" + system_message }}
{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}{%- endif %}
{{- "<|eot_id|>" }}{%- for message in messages %}{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}{%- if not message.tool_calls|length == 1 %}{{- raise_exception("One call at a time") }}{%- endif %}
{%- set tool_call = message.tool_calls[0].function %}{%- if builtin_tools is defined and tool_call.name in builtin_tools %}
{%- for arg_name, arg_val in tool_call.arguments | items %}{{- arg_name + '="' + arg_val + '"' }}{%- if not loop.last %}, {%- endif %}{%- endfor %}
{%- else %}{{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}{%- endif %}
{%- elif message.role == "tool" %}{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
{%- else %}{{- message.content }}{%- endif %}{{- "<|eot_id|>" }}{%- endif %}{%- endfor %}"""

_QWEN3 = """{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}{%- for message in messages[::-1] %}
{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
{%- if message.role == "assistant" %}{%- set reasoning_content = '' %}{%- if '</think>' in content %}
{%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{%- if loop.last or (not loop.last and reasoning_content) %}{{- '<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{%- endif %}
{%- for tool_call in message.tool_calls %}{%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
{%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}{%- endfor %}
{%- elif message.role == "tool" %}{%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + content + '\n</tool_response>' }}{%- endif %}{%- endfor %}"""

_MISTRAL = """{%- set loop_messages = messages %}{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}{%- for message in loop_messages %}
{%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
{%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("Roles must alternate") }}{%- endif %}
{%- set ns.index = ns.index + 1 %}{%- endif %}{%- endfor %}{{- bos_token }}{%- for message in loop_messages %}
{%- if message["role"] == "user" %}{%- if tools is not none and (message == user_messages[-1]) %}{%- for tool in tools %}
{%- for key, val in tool.function.items() if key != "return" %}{%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}{%- endfor %}{%- endfor %}{%- endif %}
{{- "[INST] " + message["content"] + "[/INST]" }}{%- elif message.tool_calls is defined %}{%- for tool_call in message.tool_calls %}
{%- set out = tool_call.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + tool_call.id[-9:] + '"}' }}{%- endfor %}{{- eos_token }}
{%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token }}{%- endif %}{%- endfor %}"""

_GEMMA = """{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}{%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}{%- if message['content'] is string -%}
{{ message['content'] | trim }}{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}
{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"""

_PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|><|end|>' }}{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
)

_DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}
{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}
{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}
{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"""

_RECURSIVE_MACRO = """{%- macro render(value, indent='') -%}{%- if value is mapping -%}{%- for key, inner in value|dictsort -%}
{{- key ~ ': ' ~ render(inner, indent ~ '  ') -}}{%- endfor -%}{%- elif value is sequence and value is not string -%}
{%- for inner in value -%}{{- render(inner) -}}{%- endfor -%}{%- else -%}{{- value|string -}}{%- endif -%}{%- endmacro -%}
{%- for tool in tools -%}{{- render(tool.function.parameters) -}}{%- endfor -%}{%- for m in messages -%}{{ m.content }}{%- endfor -%}"""

_TEXT_PARTS = """{%- macro text_of(content) -%}{%- if content is string -%}{{ content }}{%- elif content is iterable and content is not mapping -%}
{%- for item in content -%}{%- if item is mapping and item.type == 'text' -%}{{- item.text }}{%- elif item is string -%}{{- item }}{%- endif -%}{%- endfor -%}
{%- else -%}{{- content }}{%- endif -%}{%- endmacro -%}{%- for m in messages -%}{{ ']~b]' ~ m.role ~ '\n' ~ text_of(m.content) ~ '[e~[\n' }}{%- endfor -%}"""

_GENERATION = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{% endfor %}"
)

_LOOP_CONTROLS = (
    "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}{{ m.content }}{% if loop.index > 90 %}{% break %}"
    "{% endif %}{% endfor %}"
)

HONEST = (
    ("chatml", _CHATML),
    ("llama 2", _LLAMA2),
    ("llama 3.1 with tools", _LLAMA3),
    ("qwen 3 with tools and thoughts", _QWEN3),
    ("mistral with tools", _MISTRAL),
    ("gemma", _GEMMA),
    ("phi", _PHI),
    ("deepseek", _DEEPSEEK),
    ("a macro over schemas that calls itself", _RECURSIVE_MACRO),
    ("parts of a text", _TEXT_PARTS),
    ("generation marks", _GENERATION),
    ("loop controls", _LOOP_CONTROLS),
    (
        "macros in one another, each name theirs",
        "{% macro a(text) %}{{ text.split('x')[0] }}{{ text.split('x')[1] }}{% endmacro %}"
        "{% macro b(text) %}{{ text }}{{ text }}{% endmacro %}{% set text = a(b(messages[0].content)) %}{{ text }}",
    ),
    (
        "thoughts that are taken out of a text",
        "{% for m in messages %}{% set content = m.content %}{% if '</think>' in content %}"
        "{% set thoughts = content.split('</think>')[0] %}{% set content = content.split('</think>')[1] %}{% endif %}"
        "{{ thoughts ~ content }}{% endfor %}",
    ),
    (
        "a text that is gathered",
        "{% set ns = namespace(text='', last='') %}{% for m in messages %}{% set ns.last = ns.text if ns.last == ns.text else '' %}"
        "{% set ns.text = ns.text ~ m.content %}{% endfor %}{{ ns.text }}{{ ns.last }}",
    ),
    ("alpaca", "{% for m in messages %}{{ '### ' + m.role|capitalize + ':\n' + m.content.strip() + '\n\n' }}{% endfor %}"),
    ("vicuna", "{% for m in messages %}{{ m.role.upper() ~ ': ' ~ m.content ~ (eos_token if m.role == 'assistant' else '') }}{% endfor %}"),
    ("one message", "{{ messages[-1].content }}"),
    ("a range over calls", "{% for i in range(messages|length) %}{{ messages[i].content }}{% endfor %}"),
    ("names for parameters", "{% for t in tools %}{{ t.name | replace('-', '_') | lower }}{% endfor %}"),
    ("a list that grows", "{% set found = [] %}{% for m in messages %}{% set found = found + [m] %}{% endfor %}{{ found|length }}"),
    ("a list that takes messages in", "{% set found = [] %}{% for m in messages %}{% set _ = found.append(m) %}{% endfor %}{{ found|length }}"),
    ("a variable that is made anew", "{% for m in messages %}{% set c = m.content %}{% set c = c if c is string else c[0].text %}{% set c = c.split('</think>')[-1] if '</think>' in c else c %}{{ c }}{% endfor %}"),
    ("a default of itself", "{% set first = messages[0].content %}{% set first = first and first.strip() %}{% set first = first or 'none' %}{% set rest = messages %}{% set rest = rest[0:rest|length] %}{{ first }}{{ rest[0].content }}"),
    ("no template at all", ""),
)  # fmt: skip

_LAUGHS = "{% macro m0() %}ha{% endmacro %}" + "".join(
    f"{{% macro m{n}() %}}{{{{ m{n - 1}() }}}}{{{{ m{n - 1}() }}}}{{% endmacro %}}" for n in range(1, 30)
)

HOSTILE = (
    ("class of a string", "{{ ''.__class__ }}"),
    ("class by subscript", "{{ ''['__class__'] }}"),
    ("class by the attr filter", "{{ ''|attr('__class__') }}"),
    ("subclasses", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    ("globals of cycler", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
    ("globals of namespace", "{{ namespace.__init__.__globals__ }}"),
    ("globals of lipsum", "{{ lipsum.__globals__ }}"),
    ("globals of range", "{{ range.__self__ }}"),
    ("builtins by self", "{{ self.__init__.__globals__.__builtins__ }}"),
    ("dunder name", "{{ __import__('os') }}"),
    ("dunder set", "{% set __x__ = 1 %}"),
    ("dunder within a name", "{{ x._Template__y }}"),
    ("dunder namespace", "{% set __x__.y = 1 %}"),
    ("dunder in a namespace", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}"),
    ("dunder macro", "{% macro __x__() %}{% endmacro %}"),
    ("dunder in a selectattr", "{{ messages|selectattr('__class__') }}"),
    ("dunder in a map", "{{ messages|map(attribute='__class__')|list }}"),
    ("attr in a map", "{{ messages|map('attr', '__class__')|list }}"),
    ("dunder by get", "{{ messages[0].get('__class__') }}"),
    ("include", "{% include '/etc/passwd' %}"),
    ("include on the third line", "a\nb\n{% include 'x' %}"),
    ("include of a name", "{% include messages[0].content %}"),
    ("import", "{% import 'x' as y %}"),
    ("from import", "{% from 'x' import y %}"),
    ("extends", "{% extends 'x' %}"),
    ("block", "{% block a %}{% endblock %}"),
    ("autoescape", "{% autoescape true %}{% endautoescape %}"),
    ("a statement that the engine lacks", "{% do x.append(1) %}"),
    ("trans", "{% trans %}a{% endtrans %}"),
    ("debug", "{% debug %}"),
    ("format string method", "{{ '{0.x}'.format(messages) }}"),
    ("format filter", "{{ '%s'|format(messages) }}"),
    ("format_map", "{{ '{x}'.format_map(messages) }}"),
    ("pprint filter", "{{ messages|pprint }}"),
    ("urlize filter", "{{ messages|urlize }}"),
    ("xmlattr filter", "{{ messages|xmlattr }}"),
    ("filter that nobody has", "{{ messages|execute }}"),
    ("test that nobody has", "{{ messages is executable }}"),
    ("lipsum", "{{ lipsum(n=1000) }}"),
    ("call of what it was given", "{{ messages[0].content() }}"),
    ("call of a filter's result", "{{ (messages|first)() }}"),
    ("method that nobody lists", "{{ messages[0].content.encode('utf-8') }}"),
    ("mro method", "{{ x.mro() }}"),
    ("popen", "{{ x.popen('id') }}"),
    ("star arguments", "{{ range(*messages) }}"),
    ("named star arguments", "{{ namespace(**messages[0]) }}"),
    ("power", "{{ 10 ** 10 ** 10 }}"),
    ("a long string by a number", "{{ 'a' * 1000000000 }}"),
    ("a long string by a product", "{% set n = 9999 %}{{ 'a' * n * n * n }}"),
    ("a list by a number", "{{ [1] * 9999 }}"),
    ("a number too large", "{{ 10000000000 }}"),
    ("a number of five thousand digits", "{{ " + "9" * 5000 + " }}"),
    ("a negative number too large", "{{ -99999999 }}"),
    ("a float too large", "{{ 1e300 }}"),
    ("a range too long", "{% for i in range(1000000000) %}a{% endfor %}"),
    ("a range in a range", "{% for i in range(9999) %}{% for j in range(9999) %}a{% endfor %}{% endfor %}"),
    ("a range behind a loop in a range", "{% for i in range(9999) %}{% for m in messages %}{% for j in range(9999) %}a{% endfor %}{% endfor %}{% endfor %}"),
    ("six loops", "{% for a in messages %}" * 6 + "x" + "{% endfor %}" * 6),
    ("a recursive loop", "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}"),
    ("doubling by concatenation", "{% for m in messages %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"),
    ("doubling by a sum", "{% set x = 'a' %}{% set x = x + x %}"),
    ("doubling by a replacement", "{% set x = x|replace('a', x) %}"),
    ("doubling by a method", "{% set x = x.replace('a', x) %}"),
    ("doubling by a list", "{% set x = [x, x] %}"),
    ("doubling by a tuple", "{% set x = (x, x) %}"),
    ("doubling by a mapping", "{% set x = {'a': x, 'b': x} %}"),
    ("doubling by an item of a namespace", "{% set ns.x = ns['x'] ~ ns['x'] %}"),
    ("doubling by a block", "{% set x %}{{ x }}{{ x }}{% endset %}"),
    ("doubling by what a mapping has", "{% set x = x.a ~ x.b %}"),
    ("a list that takes itself in", "{% set _ = x.extend(x) %}"),
    ("a list that has itself at its end", "{{ x.append(x) }}"),
    ("a list that has itself at its beginning", "{{ x.insert(0, [x]) }}"),
    ("a mapping that takes itself in", "{{ x.update({'a': x}) }}"),
    ("doubling by join", "{% set x = [x, x]|join %}"),
    ("doubling in a ring", "{% for m in messages %}{% set y = x ~ x %}{% set x = y %}{% endfor %}"),
    (
        "doubling in a ring of a namespace",
        "{% set ns = namespace(a='x', b='y') %}{% for m in messages %}{% set ns.a = ns.b ~ ns.a %}{% set ns.b = ns.a %}{% endfor %}",
    ),
    ("doubling in a ring of lists", "{% for m in messages %}{{ l.extend(k) }}{{ k.extend(l) }}{% endfor %}"),
    ("doubling in a ring of two at once", "{% for m in messages %}{% set a, b = b ~ a, a %}{% endfor %}"),
    ("doubling in a ring by with", "{% for m in messages %}{% with y = x ~ x %}{% set x = y %}{% endwith %}{% endfor %}"),
    ("doubling by a loop in a block", "{% set x %}{% for m in messages %}{{ x }}{% endfor %}{% endset %}"),
    ("doubling by a macro", "{% macro f(p) %}{{ p }}{{ p }}{% endmacro %}{% for m in messages %}{% set x = f(x) %}{% endfor %}"),
    ("doubling by a macro's variable", "{% macro f(p) %}{% set q = p ~ p %}{{ q }}{% endmacro %}{% set x = f(x) %}"),
    ("doubling by a macro in itself", "{% macro f(p) %}{{ p }}{{ p }}{% endmacro %}{{ f(f(f(x))) }}"),
    (
        "doubling by macros in a row",
        "".join(f"{{% macro f{n}(p) %}}{{{{ p }}}}{{{{ p }}}}{{% endmacro %}}" for n in range(14))
        + "{{ " + "".join(f"f{n}(" for n in range(14)) + "x" + ")" * 14 + " }}",
    ),
    (
        "doubling by a block that is called",
        "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        "{% for m in messages %}{% set x %}{% call f() %}{{ x }}{% endcall %}{% endset %}{% endfor %}",
    ),
    ("doubling by a default", "{% macro f(p=x) %}{{ p }}{{ p }}{% endmacro %}{% for m in messages %}{% set x = f() %}{% endfor %}"),
    ("doubling by names in a row", "".join(f"{{% set x{n + 1} = x{n} ~ x{n} %}}" for n in range(14))),
    ("macros that laugh", _LAUGHS + "{{ m29() }}"),
    ("a macro that only calls itself", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
    ("replace of nothing", "{{ messages[0].content.replace('', 'x') }}"),
    ("replace filter of nothing", "{{ messages[0].content|replace('', 'x') }}"),
    ("split at nothing", "{{ messages[0].content.split('') }}"),
    ("split from the right at nothing", "{{ messages[0].content.rsplit('') }}"),
    ("split at what a message says", "{{ messages[0].content.split(messages[1].content) }}"),
    ("takes the word joiner out", "{{ messages[0].content.replace('\u2060', '') }}"),
    ("takes the escaped word joiner out", "{{ messages[0].content.replace('\\u2060', '') }}"),
    ("brackets nested deeply", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"),
    ("lists nested deeply", "{{ " + "[" * 150 + "]" * 150 + " }}"),
    ("conditions nested deeply", "{% if a %}" * 200 + "{% endif %}" * 200),
    ("a sum nested deeply", "{{ " + "+".join(["a"] * 500) + " }}"),
    ("filters in a row", "{{ a" + "|trim" * 5000 + " }}"),
    ("attributes in a row", "{{ a" + ".b" * 5000 + " }}"),
    ("items in a row", "{{ a" + "[0]" * 5000 + " }}"),
    ("calls in a row", "{{ a" + ".strip()" * 900 + " }}"),
    ("a long sum", "{{ " + "+".join(["a"] * 5000) + " }}"),
    ("a long sum in a variable", "{% set b = " + "+".join(["a"] * 5000) + " %}"),
    ("nots nested deeply", "{{ " + "not " * 3000 + "a }}"),
    ("longer than any", "a" * 200_000),
    ("longer than any in bytes", "\u20ac" * 50_000),
    ("more parts than any", "{{a}}" * 25_000),
    ("an end without a beginning", "{% endfor %}"),
    ("a beginning without an end", "{% for m in messages %}"),
    ("half a bracket", "{{ messages["),
    ("half a string", "{{ 'a }}"),
    ("a statement that nobody has", "{% exec 'id' %}"),
)  # fmt: skip
