"""One module per format; `fuzz.harness` says what it declares."""
