"""The local scheduler: a node's tasks, objects, workers and actors."""
