"""Critics for tests, by their import path."""

from __future__ import annotations


def odd(problem, steps):
    """Steps of an odd number of characters."""
    return [number for number, step in enumerate(steps) if len(step) % 2]


def first(problem, steps):
    return [0]


def nobody(problem, steps):
    return []


def beyond(problem, steps):
    return [len(steps)]
