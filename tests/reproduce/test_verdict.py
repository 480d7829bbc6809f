"""What is said of the AP of a published pair that was trained again."""

import pytest

from d2kd.reproduce import load_pairs, plan_of, verdict_of
from tests.reproduce.results import done

PAIRS = load_pairs()
CROSSKD = "gfl_R_50_FPN_crosskd_from_gfl_R_101_FPN_1x"


@pytest.mark.parametrize(("ap", "options", "said", "agrees"), [
    (43.3, [], "published 43.7, here 43.3 (-0.4, tolerance 0.5): agrees", True),
    (44.5, [], "here 44.5 (+0.8, tolerance 0.5): **does not agree**", False),
    (10.0, ["SOLVER.MAX_ITER", "9"], "not compared: trained with other SOLVER.MAX_ITER", True),
    (None, [], "not compared: the distilled student is not there", True),
])  # fmt: skip
def test_verdict(tmp_path, ap, options, said, agrees):
    pair = PAIRS[CROSSKD]
    study = plan_of(pair, tmp_path, options=options)
    done(study.rows[study.baseline][0], **{"bbox/AP": 40.0})
    if ap is not None:
        done(study.rows[CROSSKD][0], **{"bbox/AP": ap})
    lines, found = verdict_of(pair, study, options)
    assert said in lines[-1] and found == agrees
    compared = ap is not None and not options
    assert ("plain: published 40.2, here 40.0 (-0.2)" in lines) == compared


def test_nothing_was_published(tmp_path):
    pair = PAIRS["retinanet_R_50_FPN_mgd_from_retinanet_R_101_FPN_1x"]
    study = plan_of(pair, tmp_path)
    done(study.rows[pair.name][0], **{"bbox/AP": 38.0})
    lines, agrees = verdict_of(pair, study)
    assert "no AP of this very pair was published (37.4 to 41.0 from X101 (MGD))" in lines[-1]
    assert agrees and lines[0].endswith("not run")


def test_tolerances():
    """Narrow where the released recipe meets the published teacher."""
    for pair in PAIRS.values():
        if pair.tolerance == 0.5:
            assert pair.teacher_file and "here" not in pair.published, pair.name
