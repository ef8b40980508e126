"""`python -m latentvla_core` is `latentvla`."""

from latentvla_core.cli import main

if __name__ == "__main__":
    main()
