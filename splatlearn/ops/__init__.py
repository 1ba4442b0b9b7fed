"""The grid's Python row: one module a stage (project, bin, rasterize, photometric, adam), and what chains them."""
