"""What a model is on disk, and the gate that a file passes before it is run.

catalogue.py  the models that are known by name              fetch.py   get one, and check it
store.py      files by their digest                          gguf/      the engine's format, read and written
network/      the network and its tokenizer, as trained      templates/ chat templates and control tokens
folder.py     a folder of safetensors, and its gate
releases/     what is told of a model that was made here
"""
