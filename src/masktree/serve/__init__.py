"""The page in the browser: look at images and their trees, click, correct, export.

``server.py`` binds the address and runs; ``app.py`` lists the addresses of the interface; ``safety.py`` stands before
all of them. Work that takes the processor runs in threads (``site.py`` says how many) or in the worker processes of
``jobs.py``, never in the event loop.
"""
