"""`python -m kerasbig` is the command `kerasbig`."""

from kerasbig.cli.main import main

if __name__ == "__main__":
    main()
