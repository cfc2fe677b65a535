"""The commands of `autodidact`, one module each; see `autodidact.cli`.

Importing them, and parsing a command line, must not import torch: help and a mistyped option
answer at once.
"""
