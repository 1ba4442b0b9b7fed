"""The demo's own data: a still life, ray-cast into photographs."""
