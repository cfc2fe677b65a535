"""The commands of `autodidact`, one module each; see `autodidact.cli`.

Importing them, and parsing a command line, must not import torch: help and a mistyped option
answer at once.
"""

FURTHER = "Further options"
"""The group of options that only `--help-all` shows."""
