"""`python -m autodidact`."""

from autodidact.cli import main

if __name__ == "__main__":
    main()
