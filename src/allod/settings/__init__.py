"""The only room that reads the environment and TOML files; each is read once and handed down as a frozen value.

tree.py         everything that can be set, from `allod.toml` and command-line arguments
external.py     what is said in it of somebody's server that a model is served from
environment.py  where a realm lives, and what a scheduler's commands are given
files.py        what else is written in TOML: profiles of nations and of sites, the catalogue, recipes
"""
