"""Reports: labelled answers and where they came from, saved as files and opened without torch."""

from probe.report.answer import Answer
from probe.report.prompt_record import PromptRecord
from probe.report.provenance import ModelRecord, Provenance
from probe.report.report import Report, open_report

__all__ = ["Answer", "ModelRecord", "PromptRecord", "Provenance", "Report", "open_report"]
