"""JSON Schemas as what an engine holds a model to.

bounds.py  what a schema may ask for                         grammar.py     a schema as LLGuidance's grammar
places.py  where schemas stand inside a schema               repetition.py  what a pattern asks for, written out
"""
