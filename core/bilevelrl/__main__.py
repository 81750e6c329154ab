"""`python -m bilevelrl` is the command line too."""

from bilevelrl.cli import main

if __name__ == "__main__":
    main()
