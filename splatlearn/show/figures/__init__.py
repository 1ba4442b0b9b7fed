"""The figures of the story: one file each, with one function that takes results and returns a matplotlib figure."""
