"""The embedded cloud: AWS and Qwen's API on loopback, for ``make run`` and for the tests."""
