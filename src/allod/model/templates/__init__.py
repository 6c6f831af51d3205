"""Chat templates, and what they put between texts.

gate.py            what a template may hold                  growth.py  what would make it grow without end
control_tokens.py  how a text that spells one stays a text
"""
