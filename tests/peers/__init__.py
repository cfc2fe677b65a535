"""Engines beside the real thing, each in an environment of its own."""
