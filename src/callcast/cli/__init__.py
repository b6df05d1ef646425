"""The command line. `main` parses it; each command is a module of the same name, imported only when it runs."""
