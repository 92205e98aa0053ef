"""Chat templates of pointwise rerankers, which render messages of the roles ``query`` and ``document``."""

from __future__ import annotations

OWN_TEMPLATE = "reranker"
"""The name that sentence-transformers gives a model's template for pairs."""

# The layout of Qwen3-VL-Reranker's prompt, as its model card and vLLM's examples describe it.
_QWEN3_VL = """\
{%- macro parts(content) -%}
{%- if content is string %}{{ content }}{% else %}{% for part in content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}
{%- endmacro -%}
{%- set ns = namespace(instruction='Given a search query, retrieve relevant candidates that answer the query.') -%}
{%- for message in messages if message.role == 'system' %}{% set ns.instruction = parts(message.content) %}{% endfor -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ ns.instruction }}<Query>:\
{% for message in messages if message.role == 'query' %}{{ parts(message.content) }}{% endfor %}{{ '\n' }}<Document>:\
{% for message in messages if message.role == 'document' %}{{ parts(message.content) }}{% endfor %}<|im_end|>
<|im_start|>assistant{{ '\n' }}"""
TEMPLATES = {"qwen3_vl": _QWEN3_VL}
"""Templates that ``ranker.reranker_template`` may name, beside the model's own."""

# As the code beside the weights of jinaai/jina-reranker-m0: the image as document, the text as query.
JINA_TEMPLATE = """\
{%- for message in messages if message.role == 'system' %}{{ message.content[0].text }}{{ '\n' }}{% endfor -%}
**Document**:{{ '\n' }}\
{% for message in messages if message.role == 'query' %}{% for part in message.content %}\
<|vision_start|><|image_pad|><|vision_end|>{% endfor %}{% endfor %}{{ '\n' }}**Query**:{{ '\n' }}\
{% for message in messages if message.role == 'document' %}{{ message.content[0].text }}{% endfor %}"""
