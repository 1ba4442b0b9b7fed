"""Ways in and out: one file a format, found by suffix in `registry`; docs/formats.md tells frames and quantisations."""
