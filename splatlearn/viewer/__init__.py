"""The viewer: our own rasterizer draws what a browser shows, of a finished scene or of one that is being learned."""
