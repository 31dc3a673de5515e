"""The benchmark: what a cold start, a run and the package cost, against a bare boto3 handler."""
