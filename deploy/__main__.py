"""`python -m deploy` is the console script `freshrecall`."""

from deploy.cli import main

main()
