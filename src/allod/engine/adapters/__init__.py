"""Adapters of the engine port.

echo.py              in memory: the answer is the question
openai.py            a server that speaks OpenAI's interface    openai_answer.py  one answer under way
external.py          somebody's server of that kind             openai_wire.py    what servers say, read strictly
llama.py             llama.cpp's server over a Unix socket      llama_wire.py     what its slots are said to hold
llama_process.py     that server: its own process               prompt.py         a prompt that spells no control token
llama_slots.py       which slot a request takes              vllm.py           vLLM, and whether it gets on
"""
