"""`python -m stas`: the command line."""

from stas.cli.main import main

if __name__ == "__main__":
    main()
