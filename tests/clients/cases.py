"""Runs named cases and prints what each returns or raises, so that two servers can be compared line by line."""

import json
import sys


def arguments():
    """The endpoint, and a username and password unless the server knows no login."""
    endpoint, *credentials = sys.argv[1:]
    username, password = credentials or (None, None)
    return endpoint, username, password


def run(names, connect):
    """Runs the functions of a module whose one parameter is `client`: each gets a client of an empty cache, and returns what
    a user of the library sees."""
    for name, case in list(names.items()):
        code = getattr(case, "__code__", None)
        if code and code.co_argcount == 1 and code.co_varnames[0] == "client":
            client = connect()
            client.flush_all()
            print(json.dumps([name, repr(outcome(case, client))]))


def outcome(case, *given):
    try:
        return case(*given)
    except Exception as error:  # Which one is part of the comparison.
        return f"{type(error).__name__}: {error}"
