"""Source URLs: where content is asked for by, and under which name it is kept.

A *locator* is a parsed source URL. Its `name` is the canonical text that the catalog keeps content under, so two
spellings of one source are one name; `ref_name` is that name in the characters that an image layout allows. A URL's
userinfo becomes *credentials* here and is part of neither. `base64url` is the form that a URL takes in the path of the
content API. Nothing here does I/O: what a locator stands for now is the upstream's to find out.

A further kind of source is a further subclass of `Locator` and a row in the table of `locator`.
"""
