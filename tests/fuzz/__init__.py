"""Fuzzing of everything that reads files from strangers; see `fuzz.harness`."""
