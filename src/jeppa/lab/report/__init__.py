"""Turn the saved results of a demo or comparison into one self-contained page; nothing is computed again."""

from jeppa.lab.report.pages import write_compare, write_report

__all__ = ["write_compare", "write_report"]
