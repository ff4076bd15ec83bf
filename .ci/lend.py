"""Give another environment the base dependencies of this one, and nothing that only an extra brings.

Usage: python lend.py SITE_PACKAGES

A wheel tested among the development tools would not notice a dependency that it forgot to name.
"""

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "attention-probe"


def needed(
    name: str, extras: frozenset[str] = frozenset(), seen: dict[str, frozenset[str]] | None = None
) -> set[str]:
    """Distributions that `name` needs here, itself included, by canonical name."""
    seen = {} if seen is None else seen
    name = canonicalize_name(name)
    if name in seen and extras <= seen[name]:
        return set(seen)
    seen[name] = seen.get(name, frozenset()) | extras
    for line in metadata.requires(name) or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            needed(one.name, frozenset(one.extras), seen)
    return set(seen)


def lend(name: str, target: Path) -> None:
    """Link what a distribution put into this environment's site-packages into `target`."""
    found = metadata.distribution(name)
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        link, original = target / top, Path(str(found.locate_file(top))).resolve()
        if not link.exists():
            link.symlink_to(original, target_is_directory=original.is_dir())


for dependency in needed(PROJECT) - {PROJECT}:
    lend(dependency, Path(sys.argv[1]))
