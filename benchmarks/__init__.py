"""Speed, memory and gradients, measured against others in the same run: ``python -m benchmarks NAME [--smoke]``."""
