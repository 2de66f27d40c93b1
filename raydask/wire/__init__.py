"""What travels between processes: messages, their framing, and the blocking connection."""
