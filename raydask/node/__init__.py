"""The processes of one machine: supervisor, node, workers."""
