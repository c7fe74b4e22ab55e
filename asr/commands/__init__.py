"""The verbs (subcommands) of ``asr``: each parses options, calls functions and prints results."""
