"""Bulk submission of task graphs, for schedulers built on raydask; see `submit_graph`."""

from __future__ import annotations

from raydask.driver.graph import GraphSubmission, GraphTask, Output, submit_graph

__all__ = ["GraphSubmission", "GraphTask", "Output", "submit_graph"]
