"""Side by side with peers in one process. Each prints the machine, its numbers and their ratio."""
