"""Speed and memory, measured against others in the same run: ``python -m benchmarks NAME [--smoke]``."""
