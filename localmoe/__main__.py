"""`python -m localmoe` is `localmoe`."""

from localmoe.cli.main import main

if __name__ == "__main__":
    main()
