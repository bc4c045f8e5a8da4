"""`python -m lgkd` is `lgkd`."""

from lgkd.cli import main

if __name__ == "__main__":
    main()
