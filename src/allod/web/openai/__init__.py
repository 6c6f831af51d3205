"""OpenAI's dialect: what it calls things, and nothing of what they mean.

handlers.py  its paths                                       wire.py   the shapes of its requests
read.py      from its words to ours                          write.py  from our values to its words, errors too
"""
