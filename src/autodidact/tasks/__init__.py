"""Tasks: where problems come from, and how completions are graded."""
