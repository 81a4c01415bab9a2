"""`python -m orchestrator`: the command line, for when the folder of the script `orchestrator` is not on the PATH."""

from orchestrator.cli.script import main

if __name__ == "__main__":
    main()
