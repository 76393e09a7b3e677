"""`python -m salm` is `salm`."""

from salm.cli.app import main

main()
