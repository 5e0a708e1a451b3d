"""`python -m natterjack` runs the `natterjack` command."""

from .cli.main import main

if __name__ == "__main__":
    main()
