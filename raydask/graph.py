"""Bulk submission of task graphs, for schedulers built on raydask; see `submit_graph`."""

from raydask.driver.graph import GraphSubmission, GraphTask, Output, submit_graph

__all__ = ["GraphSubmission", "GraphTask", "Output", "submit_graph"]
