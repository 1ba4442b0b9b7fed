"""Photographs on their way to a training step: decoding, storage, lenses, masks, exposure, staging."""
