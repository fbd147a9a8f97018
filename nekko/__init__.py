"""nekko: the storage daemon of one node.

Only the version lives here, so that `nekko --version` imports nothing else.
"""

__version__ = "0.1.0"
