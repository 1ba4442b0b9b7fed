"""The report of a run and the comparison of two: one HTML file each that opens anywhere, offline, by itself.

`run_folder` reads what a run has written. The other files choose what of it to show, as plain data; the templates turn
these data into HTML, and escape them.
"""

from splatlearn.show.report.compare import summary, write_comparison
from splatlearn.show.report.run import write_report

__all__ = ["summary", "write_comparison", "write_report"]
