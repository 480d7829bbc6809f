"""What `d2kd replay` prints."""

from pathlib import Path
from typing import Iterator, List, Sequence, Tuple

from ...engine.capsule.read import Capsule, read_capsule
from ...text import plain
from .diagnosis import describe, watch_step
from .rebuild import rebuild
from .repeat import differences, repeat, trainer_of


def replay(folder: Path, options: Sequence[str] = ()) -> Tuple[List[str], bool]:
    """Repeat the step of a capsule, and look where its numbers went wrong.

    Args:
        folder: the capsule, OUTPUT_DIR/replay/<iteration>.
        options: KEY VALUE pairs, for files that have moved.

    Returns:
        Tuple: lines, and whether the step failed as it did in the run, bit by bit.

    Raises:
        ConfigError: the capsule is damaged, or a teacher's config is missing.
    """
    capsule = read_capsule(folder)
    scene = rebuild(capsule, options)
    found = differences(repeat(scene, capsule), capsule)
    lines = [*_heading(capsule), *(f"Missing: {x}." for x in scene.missing)]
    lines += _verdict(found)
    seen = watch_step(scene, trainer_of(scene, capsule))
    return [*lines, *describe(seen, scene)], not found


def _heading(capsule: Capsule) -> Iterator[str]:
    reason, iteration = capsule.record["reason"], capsule.record["iteration"]
    said, first = (plain(reason.get(key), 2000) for key in ("said", "text"))
    yield f"Iteration {iteration}: {plain(reason.get('type'))} at {plain(reason.get('where'))}"
    yield f"  {said}"
    if first not in said:
        yield f"  {first}"


def _verdict(found: List[str]) -> Iterator[str]:
    if not found:
        yield "The step fails here as it did, bit by bit."
        return
    yield "The step does not fail here as it did:"
    yield from (f"  {plain(x, 2000)}" for x in found)
