"""Seeded histories of the schedulers' cores on a virtual clock."""
