"""`python -m bilevelrl` runs the command line."""

from bilevelrl.cli import main

if __name__ == "__main__":
    main()
