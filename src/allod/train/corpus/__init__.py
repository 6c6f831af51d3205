"""Documents on their way to tokens: cleaned, compared, held out, packed.

documents.py    JSON lines, one or more files per source     normalising.py    one way to write a text
quality.py      rules by which a document is dropped         language.py       which language a text is in
redaction.py    personal data, replaced by what it was       canaries.py       sentences planted to see recall
held_out.py     which documents are only measured with       contamination.py  documents that hold such passages
shards.py       the packed corpus                            spill.py          tokens on their way into it
"""
