"""A token that a long-running process keeps alive by itself.

``token_manager`` is what a program uses. ``local_store`` has the stores in memory and in a file
(``owner_file``); ``write_behind`` is what the keeper sees of any store. ``local_session`` keeps the
login beside the token, ``text_state`` the lease and what the API refused; ``runs`` has the keeper
run with these. ``refresh_thread`` checks the token in the
background, and ``events`` calls the program back. ``known_token`` and ``failed_attempt`` are what
the manager remembers.
"""
