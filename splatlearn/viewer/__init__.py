"""The viewer: the rasterizer renders what a browser shows, of a finished scene or of one in training."""
