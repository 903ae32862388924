"""Checkpoints of RecIS 1.0: read, written, and turned into snapshots. See docs/format.md."""
