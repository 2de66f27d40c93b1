"""The worker process: runs tasks, or is one actor."""
