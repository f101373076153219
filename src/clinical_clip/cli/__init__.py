"""The command line: one file a verb. Heavy imports stay inside the commands."""
