"""Speed, as a ratio to a peer and to a limit measured in the same run. Not tests: nothing asserts time."""
