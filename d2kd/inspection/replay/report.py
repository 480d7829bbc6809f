"""What `d2kd replay` prints."""

from contextlib import nullcontext
from pathlib import Path
from typing import Callable, Iterator, List, Sequence, Tuple

from ...engine.capsule.read import Capsule, read_capsule
from ...text import plain
from .diagnosis import describe, watch_step
from .ranks import Group, folders_of_ranks, in_ranks
from .rebuild import Scene, rebuild
from .repeat import differences, repeat, trainer_of


def replay(
    folder: Path, options: Sequence[str] = (), prepare: Callable[[], None] = lambda: None
) -> Tuple[List[str], bool]:
    """Repeat the step of a capsule, and look where its numbers went wrong.

    The step of several ranks is repeated by as many processes, on the CPU, where all have left a
    capsule.

    Args:
        folder: the capsule, OUTPUT_DIR/replay/<iteration>.
        options: KEY VALUE pairs, for files that have moved.
        prepare: what each process begins with, a function of a module, such as files to import.

    Returns:
        Tuple: lines, and whether the step failed as it did in the run, bit by bit; of several
        ranks that of the folder.

    Raises:
        ConfigError: the capsule is damaged, or a teacher's config is missing.
    """
    prepare()
    capsule = read_capsule(folder)
    folders = folders_of_ranks(capsule)
    if not folders:
        return _lines(capsule, rebuild(capsule, options))
    found = in_ranks(_of_rank, (folders, options, prepare), len(folders))
    named = [x for rank, (lines, _) in enumerate(found) for x in (f"Rank {rank}:", *lines)]
    return named, found[folders.index(folder.resolve())][1]


def _of_rank(rank: int, group: Group, folders: List[Path], options: Sequence[str],
             prepare: Callable[[], None]) -> Tuple[List[str], bool]:  # fmt: skip
    prepare()
    capsule = read_capsule(folders[rank])
    return _lines(capsule, rebuild(capsule, options, len(folders)), group)


def _lines(capsule: Capsule, scene: Scene, group: Group = nullcontext) -> Tuple[List[str], bool]:
    with group():
        found = differences(repeat(scene, capsule), capsule)
    lines = [*_heading(capsule), *(f"Missing: {x}." for x in scene.missing), *_verdict(found)]
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
