"""`python -m jeppa` is the command line."""

from jeppa.cli import main

main()
