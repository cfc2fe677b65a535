"""Losses: a value per token or row, and the weights that sum them."""
