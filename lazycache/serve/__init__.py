"""The explorer: pages about one dataset, for a browser on this machine.

`app.make_app(cache, ...)` is the application, `running.serve(url, ...)` what the command calls.
A page is a file of `pages/` (what is asked, and its routes) and a template; `access.py` says who
may ask, `limits.py` how much.
"""
