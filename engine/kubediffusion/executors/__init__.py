"""Executors: the engine's strategies for reaching workers."""
