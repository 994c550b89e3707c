"""The report of a run or a search, finished or at work: a page with pictures, or text."""

from prunekit.cli.report.collect import collect
from prunekit.cli.report.pictures import require_matplotlib
from prunekit.cli.report.write import FORMATS, report_text, write_report

__all__ = ["FORMATS", "collect", "report_text", "require_matplotlib", "write_report"]
