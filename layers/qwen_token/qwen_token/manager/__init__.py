"""A token that a long-running process keeps alive by itself.

Programs use ``token_manager``. ``local_store`` has the stores in memory and in a file
(``owner_file``); ``write_behind`` is the keeper's view of any store. ``local_session`` keeps the
login beside the token, ``text_state`` the lease and the record of refusals; ``runs`` runs the
keeper with these. ``refresh_thread`` checks the token in the background, and ``events`` calls the
program back. ``known_token`` and ``failed_attempt`` are the manager's memory.
"""
