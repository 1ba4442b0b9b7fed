"""Reconstruct photographs or a video as a COLMAP folder: structure from motion by pycolmap, resumable, with a report.

gather: find and measure the images. frames: extract the sharpest frames of a video. phases: features, matches and
mapping. work: the state of an unfinished run. report: the result and its explanation. pipeline: the order of all these.
"""

from splatlearn.scene.reconstruct.pipeline import reconstruct
from splatlearn.scene.reconstruct.report import Missing, Report
from splatlearn.scene.reconstruct.settings import Settings

__all__ = ["Missing", "Report", "Settings", "reconstruct"]
