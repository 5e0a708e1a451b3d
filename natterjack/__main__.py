"""`python -m natterjack`: the `natterjack` command."""

from .cli.main import main

if __name__ == "__main__":
    main()
