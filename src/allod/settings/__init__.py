"""The only room that reads the environment and TOML files; each is read once and handed down as a frozen value.

tree.py  everything that can be set, from `allod.toml` and command-line words.
"""
