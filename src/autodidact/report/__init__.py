"""The report of a run: one self-contained HTML file, its numbers, and tables for the terminal."""

from autodidact.report.page import report
from autodidact.report.summary import summarise
from autodidact.report.tables import tables

__all__ = ["report", "summarise", "tables"]
