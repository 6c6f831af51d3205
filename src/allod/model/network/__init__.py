"""A network as it is trained: torch and safetensors, not the engine's format.

llama.py      the network                                    weights.py          its file
tokenizer.py  texts to tokens and back                       tokenizer_files.py  its files
"""
