"""Small tokenizers with chat templates laid out as those of public models are."""

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = (
    "the cat sat on the mat and looked at the moon\n\nYou are a helpful assistant.\n",
    "user assistant system model tool what is the capital of mali? it is bamako, the dog said.",
    'café naïve 中文 один <think>\n\n</think>\n\nToday Date: 26 Jul 2024 {"name": "weather"}',
)
# Every kind of message layout has a turn of ChatML at its base.
CHATML_TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
CHATML_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant named Smol.<|im_end|>\\n' }}{% endif %}"
    + CHATML_TURN
    + "{% endfor %}"
    + CHATML_ASK
)

# Tools stand in the system turn, what they answer in a turn of the user.
QWEN_TOOLS = """\
{%- set start, end = '<|im_start|>', '<|im_end|>\\n' %}
{%- set own = messages[0].content if messages[0].role == 'system' else usual %}
{%- if tools %}
    {{- start + 'system\\n' + (own + '\\n\\n' if own else '') + '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '\\n</tools>' + end }}
{%- elif own %}
    {{- start + 'system\\n' + own + end }}
{%- endif %}
"""
QWEN_CALLS = """\
        {%- for call in m.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- ('\\n' if text or not loop.first else '') + '<tool_call>\\n{"name": "' }}
            {{- call.name + '", "arguments": ' + call.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- end }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- start + 'user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- end }}{%- endif %}
    {%- endif %}
{%- endfor %}
"""
QWEN_ASK = "{%- if add_generation_prompt %}{{- start + 'assistant\\n' }}{%- endif %}"
QWEN25 = (
    "{%- set usual = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}\n"
    + QWEN_TOOLS
    + """\
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- start + m.role + '\\n' + m.content + end }}
    {%- elif m.role == 'assistant' %}
        {%- set text = m.content or '' %}
        {{- start + 'assistant' + ('\\n' + text if text or not m.tool_calls else '') }}
        {%- if m.tool_calls and not text %}{{- '\\n' }}{%- endif %}
"""
    + QWEN_CALLS
    + QWEN_ASK
)
# What was thought before the last question is left out.
QWEN3 = (
    "{%- set usual = '' %}\n"
    + QWEN_TOOLS
    + """\
{%- set found = namespace(last=0) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{%- set found.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- start + m.role + '\\n' + m.content + end }}
    {%- elif m.role == 'assistant' %}
        {%- set text, thought = m.content or '', '' %}
        {%- if m.reasoning_content is string %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in text %}
            {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- start + 'assistant\\n' }}
        {%- if loop.index0 > found.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + text.lstrip('\\n') }}
        {%- else %}
            {{- text }}
        {%- endif %}
"""
    + QWEN_CALLS
    + QWEN_ASK
    + "{%- if add_generation_prompt and enable_thinking is defined %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)
LLAMA3 = """\
{{- bos_token }}
{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- macro head(role) %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
{%- endmacro %}
{%- if messages[0].role == 'system' %}
    {%- set own, messages = messages[0].content | trim, messages[1:] %}
{%- else %}
    {%- set own = '' %}
{%- endif %}
{{- head('system') + 'Today Date: ' + today + '\\n\\n' + own + '<|eot_id|>' }}
{%- if tools is not none %}
    {%- set first, messages = messages[0].content | trim, messages[1:] %}
    {{- head('user') + 'Functions:\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
    {{- first + '<|eot_id|>' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {{- head('ipython') + m.content | tojson + '<|eot_id|>' }}
    {%- elif m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('One call at once!') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- head('assistant') + '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- head(m.role) + m.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- head('assistant') }}{%- endif %}
"""
# The system's text stands in the first turn of the user.
GEMMA3 = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set c = messages[0].content %}
    {%- set before = (c if c is string else c[0].text) + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set before = '' %}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<start_of_turn>' + role + '\\n' + (before if loop.first else '') }}
    {%- if m.content is string %}
        {{- m.content | trim }}
    {%- else %}
        {%- for part in m.content %}{{- part.text | trim }}{%- endfor %}
    {%- endif %}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""
# The system's text and the tools stand in the last turn of the user.
MISTRAL = """\
{%- if messages[0].role == 'system' %}
    {%- set own, messages = messages[0].content, messages[1:] %}
{%- endif %}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools is not none and m == users[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + (own + '\\n\\n' if own is defined and loop.last else '') }}
        {{- m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {{- call.function | tojson + (']' if loop.last else ', ') }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + '}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""
# With marks of its own.
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}" + CHATML_TURN + "{% endif %}{% endfor %}" + CHATML_ASK
)

_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_MISTRAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
    *("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
# Template, special tokens, start, end, whether words are those of SentencePiece.
KINDS = {
    "smollm2": (SMOLLM2, _CHATML, "<|im_start|>", "<|im_end|>", False),
    "qwen25": (QWEN25, _CHATML, None, "<|im_end|>", False),
    "qwen3": (QWEN3, _CHATML, None, "<|im_end|>", False),
    "llama3": (LLAMA3, _LLAMA3, "<|begin_of_text|>", "<|eot_id|>", False),
    "gemma3": (GEMMA3, _GEMMA, "<bos>", "<eos>", True),
    "mistral": (MISTRAL, _MISTRAL, "<s>", "</s>", True),
    "marked": (MARKED, _CHATML, None, "<|im_end|>", False),
}
WITH_TOOLS = ("qwen25", "qwen3", "llama3", "mistral")
# These put a start token before every text.
STARTED = ("llama3", "gemma3", "mistral")


def save(folder, kind: str, **settings) -> None:
    """Writes a tokenizer as a folder of `transformers`."""
    template, special, bos, eos, pieces = KINDS[kind]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>" if pieces else None))
    tokens = [*(["<unk>"] if pieces else []), *special]
    options = {"vocab_size": 600, "special_tokens": tokens, "show_progress": False}
    if pieces:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        options["initial_alphabet"] = [chr(i) for i in range(32, 127)] + ["\n", "▁"]
        tokenizer.decoder = decoders.Replace("▁", " ")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(**options))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    if kind in STARTED:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": eos}
    about |= {"chat_template": template} | ({} if bos is None else {"bos_token": bos})
    (folder / "tokenizer_config.json").write_text(json.dumps(about | settings))
