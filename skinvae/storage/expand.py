"""The patterns of a command line: braces and wildcards -> the locations they mean, locally and on S3 alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod

from braceexpand import braceexpand

from skinvae.errors import InputError, UsageError
from skinvae.storage.filesystem import Location, StorageSettings

_MAX_NAMES = 1_000_000
"""Of one brace pattern: '{0..999999999}' is a slip, not a list of shards."""
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_NUM_LOOKUPS_AT_ONCE = 16


def expand(pattern: str, settings: StorageSettings | None = None) -> list[Location]:
    """The locations that `pattern` means: braces in the order written, the matches of a wildcard sorted.

    `{000..999}`, `{a,b}` as in WebDataset; `*`, `?`, `[...]`, `**` as in a shell. A name that is there is meant
    literally, whatever it holds. Raises InputError if nothing matches, or a name that braces spell out is missing;
    UsageError if braces do not pair up.
    """
    whole = Location.parse(pattern, settings)
    if not _has_any(pattern, "{*?[") or whole.exists():
        return [whole]
    locations = [Location.parse(name, settings) for name in _spelled_out(pattern)]
    if len(locations) > 1:
        _require([location for location in locations if not _has_any(location.uri, "*?[")], pattern=pattern)
    found: list[Location] = []
    for location in locations:
        if not _has_any(location.uri, "*?["):
            matches = [location] if len(locations) > 1 else []
        else:
            matches = list(_matches(location))
        if not matches:
            inside = "" if location.uri == whole.uri else f" ('{location}')"
            raise InputError(f"nothing matches '{pattern}'{inside}: check the path or URI")
        found += matches
    return found


def _spelled_out(pattern: str) -> list[str]:
    """What the braces mean, in their order; `pattern` itself where there are none."""
    # Before the expansion, which makes every number of a range at once.
    num_names = prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern))
    try:
        names = [] if num_names > _MAX_NAMES else list(islice(braceexpand(pattern, escape=False), _MAX_NAMES + 1))
    except ValueError:  # its UnbalancedBracesError, which its type stubs lack
        raise UsageError(f"'{pattern}' has a brace without its counterpart") from None
    if not 0 < len(names) <= _MAX_NAMES:
        raise UsageError(f"'{pattern}' spells out more than {_MAX_NAMES:,} names: give a folder, prefix or wildcard")
    return names


def _matches(pattern: Location) -> Iterable[Location]:
    """What the wildcards match, sorted: no hidden files, and with `**` no folders, which hold other matches."""
    scheme = "" if pattern.is_local else "s3://"
    found = pattern.glob()
    wants_hidden = pattern.name.startswith(".")
    for path in sorted(found, key=lambda path: path.encode("utf-8", "surrogatepass")):
        location = Location(scheme + path.rstrip("/"), pattern.settings)
        is_folder = found[path] == "directory"
        if (wants_hidden or not location.name.startswith(".")) and not (is_folder and "**" in pattern.uri):
            yield location


def _require(locations: list[Location], *, pattern: str) -> None:
    """Raises InputError for names that are not there."""
    with ThreadPoolExecutor(max_workers=_NUM_LOOKUPS_AT_ONCE, thread_name_prefix="look-up") as pool:
        try:
            there = list(pool.map(Location.exists, locations))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    missing = [location for location, exists in zip(locations, there, strict=True) if not exists]
    if missing:
        raise InputError(
            f"'{pattern}' names {len(locations):,} archives, but {len(missing):,} of them are not there:"
            f" the first is '{missing[0]}'"
        )


def _has_any(text: str, characters: str) -> bool:
    return any(character in text for character in characters)
