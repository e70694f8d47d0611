"""What several benchmarks share. Each benchmark is a program of its own in the folder above or in `beside/`."""
