"""Saved results of a demo or comparison -> one self-contained `report.html`; nothing is computed again."""

from jeppa.report.page import write_report

__all__ = ["write_report"]
