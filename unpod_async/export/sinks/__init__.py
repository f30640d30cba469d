"""Destinations, one file each. `make(target, kind, columns)` gives a `Sink`, not opened."""
