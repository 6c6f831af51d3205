"""Adapters of the engine port.

echo.py              in memory: the answer is the question
llama.py             llama.cpp's server over a Unix socket   llama_process.py  that server: its own process
llama_generation.py  one answer under way                    llama_wire.py     what it says, read strictly
llama_slots.py       which slot a request takes              llama_prompt.py   a prompt that spells no control token
"""
