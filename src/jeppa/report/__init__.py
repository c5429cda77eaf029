"""Saved results of a demo or comparison -> one self-contained page; nothing is computed again."""

from jeppa.report.compare_page import write_compare
from jeppa.report.page import write_report

__all__ = ["write_compare", "write_report"]
