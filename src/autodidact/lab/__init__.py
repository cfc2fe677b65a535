"""What does not fit the four verbs: models and methods of another make."""
