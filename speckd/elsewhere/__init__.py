"""A teacher that is elsewhere: its K likeliest tokens in a file, or from a server."""
