"""The verbs of the command line: options to calls of functions, results to what is printed."""
