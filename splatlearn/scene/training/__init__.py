"""How a scene is learned: the task, its recipe and step, the optimizer, strategies, and replay."""
