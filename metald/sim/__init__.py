"""A fleet that speaks the wire: simulated hardware for tests, benchmarks and for trying metald out."""
