"""`python -m otbsr`."""

from otbsr.cli import main

main()
