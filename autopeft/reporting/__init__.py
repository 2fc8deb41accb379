"""What a search found, on one page: HTML that needs no network, and a Markdown twin.

A report is a `Document`, made of what a run folder says (`Searched`); two renderers write it.
"""

from autopeft.reporting.candidate import chosen, facts_of
from autopeft.reporting.learning import explained
from autopeft.reporting.report import document_of, write
from autopeft.reporting.searched import Searched

__all__ = ["Searched", "chosen", "document_of", "explained", "facts_of", "write"]
