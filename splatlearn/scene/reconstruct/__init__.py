"""From photographs or a video to a COLMAP folder: structure from motion by pycolmap, resumable, with a plain report.

gather: which photographs, and what one look tells of them. frames: the sharpest ones of a video. phases: features,
matches, placing. work: what is done so far. report: what came of it. pipeline puts them in order.
"""

from splatlearn.scene.reconstruct.pipeline import reconstruct
from splatlearn.scene.reconstruct.report import Missing, Report
from splatlearn.scene.reconstruct.settings import Settings

__all__ = ["Missing", "Report", "Settings", "reconstruct"]
