"""A token that a long-running process keeps alive by itself.

``token_manager`` is what a program has; ``local_store`` are the stores that are no secret,
``shelf`` what the keeper sees of any store, ``repeater`` the thread that checks, ``news`` who is
told of it.
"""
