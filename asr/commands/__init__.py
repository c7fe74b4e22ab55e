"""The verbs of the command line, which parse options, call functions and print results."""
