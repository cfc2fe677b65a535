"""What makes tokens fast. Every engine draws from the law it was asked for, and says which."""
