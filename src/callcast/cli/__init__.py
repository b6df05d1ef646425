"""The command line: `main` parses it, and each command is one module of its name. Only the chosen one is imported."""
