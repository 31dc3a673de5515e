"""``python -m qwen_token``."""

import sys

from .cli import main

sys.exit(main(prog="python -m qwen_token"))
