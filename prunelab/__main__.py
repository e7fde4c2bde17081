"""`python -m prunelab`, the same as the command `prunelab`."""

from prunelab.command.line import main

main()
