"""The program of the child process that matches patterns (`patterns`): of names, it says which have a match.

It stands alone: its text is run by an interpreter that has no nekko. Standard input is a JSON object of `patterns` and
`names`; the answer is one of `found`, the positions of names, or of `fault`, what is wrong with a pattern.
"""

import json
import re
import sys
import warnings

_CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "ascii": r"\x00-\x7f", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@[-`{-~", "space": r"\t\n\v\f\r ",
    "upper": "A-Z", "word": r"0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
"""What Go's expressions have inside of brackets, and Python's have not."""


def translate(pattern: str) -> str:
    """Write an expression of Go as one of Python, where the two differ and it matters."""
    for name, members in _CLASSES.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    return re.sub(r"(\\.)", lambda found: r"\Z" if found[0] == r"\z" else found[0], pattern, flags=re.DOTALL)


def main() -> None:
    """Read the question, write the answer."""
    warnings.simplefilter("ignore")  # of expressions that a later Python may read in another way
    asked = json.load(sys.stdin)
    try:
        expressions = [re.compile(translate(pattern)) for pattern in asked["patterns"]]
    except (re.error, OverflowError, RecursionError) as error:
        json.dump({"fault": str(error)}, sys.stdout)
        return
    found = [number for number, name in enumerate(asked["names"]) if any(each.search(name) for each in expressions)]
    json.dump({"found": found}, sys.stdout)


if __name__ == "__main__":
    main()
