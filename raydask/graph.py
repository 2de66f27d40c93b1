"""Bulk submission of task graphs, for schedulers built on raydask; see `submit_graph`."""

from __future__ import annotations

from raydask.driver.api import ensure_session
from raydask.driver.graph import GraphSubmission, GraphTask, Output, submit_graph

__all__ = ["GraphSubmission", "GraphTask", "Output", "ensure_session", "submit_graph"]
