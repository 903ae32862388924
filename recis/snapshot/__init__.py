"""Snapshots: what tables hold, as safetensors files that any number of shards can load."""
