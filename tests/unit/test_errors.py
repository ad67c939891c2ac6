"""The tree that the module's docstring draws is the tree of its classes, exit codes included."""

from __future__ import annotations

import inspect
import re

from skinvae import errors


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {name: (one.__base__, one.exit_code) for name, one in vars(errors).items() if inspect.isclass(one)}
    drawn, above = {}, [Exception]
    for line in inspect.getdoc(errors).splitlines():
        if found := re.match(r"([ │├└─]{4,})(\w+) +(\d)", line):
            branch, name, code = found.groups()
            del above[len(branch) // 4 :]
            drawn[name] = (above[-1], int(code))
            above.append(getattr(errors, name))
    assert drawn == real
