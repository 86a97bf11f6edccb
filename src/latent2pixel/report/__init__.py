"""The report of a transfer: one HTML file that shows pictures, scores, curves, times and costs."""

from latent2pixel.report.content import CostRow, ImagePair, ReportContent, Stage
from latent2pixel.report.html import write_report

__all__ = ["CostRow", "ImagePair", "ReportContent", "Stage", "write_report"]
