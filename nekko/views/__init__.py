"""Views: which names an engine wants the blobs of a content to have. Pure.

`tree` holds the names, and refuses those that could do harm; `kinds` gives them, for each kind of engine. The daemon
describes a tree and keeps its blobs (`store.views`); the command line, which may write where its user may, makes it.
"""
