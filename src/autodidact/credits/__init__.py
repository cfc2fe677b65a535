"""Credits: what tokens and rows are worth. They run without gradient."""
