"""What a model is measured by.

held_out_text.py  the text that nobody trained on            bits.py       bits per byte of it
cloze.py          which of four words ends the sentence      questions.py  questions with choices
likelihoods.py    how likely given continuations are         recall.py     canaries, recalled word for word
gates.py          what must be reached before a release
"""
