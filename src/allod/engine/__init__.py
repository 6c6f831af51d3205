"""Engines: the port, what is behind it, and how an engine is kept running. Serving stands on it; training
starts its `llama_process.py` as a process and imports nothing of it.

engine.py          the port: what is asked of whatever runs a model
http.py            HTTP/1.1 to one server                    salts.py           who may share a prefix cache
adapters/          echo in memory, llama.cpp                 replicas/          an engine that is kept running
schemas/           JSON Schemas as grammars                  token_estimate.py  tokens, told by bytes
address.py         where a server is: socket, or TLS         giving_way.py      long work lets others have their turn
owned.py           who may ask one that knows no salts
"""
