"""Powertools reads its own environment when the handler is imported: it has to be there by then."""

import os

os.environ["POWERTOOLS_SERVICE_NAME"] = "my-stack"
os.environ["POWERTOOLS_METRICS_NAMESPACE"] = "QwenTokenRefresh"
