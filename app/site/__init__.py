"""The page without a server: `python -m app.site build FOLDER`, or `make site`.

Lessons and recorded pictures need no model. So the page's own panels are asked here, once, for all that a visitor could
ask of their Python, and the answers are written down: a folder of files that any host serves, from any address, and
that a browser keeps for the time without a network. A panel cannot tell it from the app (app/site/bridge.js).
"""
