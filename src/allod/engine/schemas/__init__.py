"""JSON Schemas as what an engine holds a model to.

grammar.py     a schema as LLGuidance's grammar              refusal.py  that a schema cannot be used
subschemas.py  the schemas inside a schema
"""
