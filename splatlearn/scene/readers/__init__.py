"""Readers of captures: a folder becomes cameras, images and points."""
