"""Scene file formats: one module per format, chosen by suffix in `registry`; docs/formats.md describes each."""
