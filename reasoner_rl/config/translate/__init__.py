"""Settings of verl and TRL as recipes: their keys and ours in tables, and the arithmetic between them. Imports neither.

read (files, scripts, overrides) -> verl or trl (a `Draft`, from the tables of keys) -> write (YAML with comments)
"""
