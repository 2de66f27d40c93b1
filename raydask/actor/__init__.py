"""What callers and nodes know about actors: the order of calls, and recovery. Pure."""
