"""Rollouts: how tokens appear. Each is a callable (problems, models, task, seed) -> Batch."""
