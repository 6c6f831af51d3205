"""Adapters of the engine port: `echo` in memory, `llama` for llama.cpp over a Unix socket."""
