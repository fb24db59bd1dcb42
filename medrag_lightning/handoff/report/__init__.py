"""One HTML file that tells what a run has learned and how it answers; it opens offline."""

from medrag_lightning.handoff.report.report import Options, Told, write_report

__all__ = ["Options", "Told", "write_report"]
