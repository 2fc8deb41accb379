"""What a search found, on one page: HTML that needs no network, and a Markdown twin.

A report is a `Document`, made of what a run folder says (`Searched`); two renderers write it.
"""

from autopeft.reporting.candidate import chosen, facts_of
from autopeft.reporting.page import to_html
from autopeft.reporting.pull_request import to_markdown
from autopeft.reporting.report import document_of
from autopeft.reporting.searched import Searched

__all__ = ["Searched", "chosen", "document_of", "facts_of", "to_html", "to_markdown"]
