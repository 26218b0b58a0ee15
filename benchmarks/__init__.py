"""Benchmarks of evio beside its peers: `make bench`. How they measure is told in docs/benchmarks.md."""
