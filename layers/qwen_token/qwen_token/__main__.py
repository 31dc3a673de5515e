"""``python -m qwen_token``."""

import sys

from .cli import main

sys.exit(main())
