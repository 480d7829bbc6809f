"""The README, and the tables and files that it leads to: what they show is what there is."""

import re
import runpy
from pathlib import Path

from d2kd import DISTILLATION_HEAD_REGISTRY
from d2kd.inspection.combinations import DETECTORS as DETECTED
from d2kd.inspection.combinations import students_of
from d2kd.testing import make_batch
from tests.conftest import ROOT
from tests.docs.pages import pages
from tests.helpers import detector, distill


def readme():
    return pages()["README.md"]


def test_the_readme_is_short():
    assert len(readme().splitlines()) <= 200


def test_the_method_of_the_tutorial_is_the_file_that_is_tested(monkeypatch):
    path = ROOT / "docs" / "my_method.py"
    assert path.read_text() in pages()["docs/tutorials/own_method.md"]
    heads = DISTILLATION_HEAD_REGISTRY._obj_map
    monkeypatch.setattr(DISTILLATION_HEAD_REGISTRY, "_obj_map", dict(heads))  # for this test only
    runpy.run_path(str(path))
    model = distill(detector(), [detector("FCOS", 12, seed=1)], ("Cosine",)).train()
    loss = model(make_batch())["loss_Cosine_feat"]
    loss.backward()
    assert 0 < loss.item() < 8
    assert model.heads["Cosine"].project["8"].weight.grad.abs().sum() > 0


DETECTORS = {
    "RetinaNet": ("RetinaNet", {}),
    "FCOS": ("FCOS", {}),
    "ATSS": ("ATSS", {}),
    "AutoAssign": ("AutoAssign", {}),
    "DDOD": ("DDOD", {}),
    "GFL": ("GFL", {}),
    "GFLv2": ("GFL", {"MODEL__GFL__QUALITY": "DGQP"}),
    "RepPoints": ("RepPoints", {}),
    "Faster R-CNN": ("GeneralizedRCNN", {"MODEL__MASK_ON": False}),
    "Mask R-CNN": ("GeneralizedRCNN", {}),
    "Cascade R-CNN": (
        "GeneralizedRCNN",
        {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
         "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True},
    ),
}  # fmt: skip


def trains(head, meta, keys):
    """The method builds for a pair of this detector and gives finite losses."""
    student, teacher = (detector(meta, seed=seed, **keys) for seed in (0, 1))
    try:
        model = distill(student, [teacher], (head,), options={"CrossKD": {"BLOCK": 1}}).train()
    except ValueError as error:
        assert "needs" in str(error)
        return False
    losses = [v for k, v in model(make_batch()).items() if k.startswith(f"loss_{head}_")]
    return bool(losses) and all(bool(v.isfinite()) for v in losses)


def test_the_table_of_methods_and_detectors_is_true():
    lines = pages()["docs/reference/methods/index.md"].splitlines()
    start = lines.index("| | " + " | ".join(DETECTORS) + " |")
    table = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        table[name] = cells
    heads = [
        name for name, head in DISTILLATION_HEAD_REGISTRY if head.__module__.startswith("d2kd.")
    ]
    assert sorted(table) == sorted(heads)
    for head, cells in table.items():
        expected = ["yes" if trains(head, *d) else "-" for d in DETECTORS.values()]
        assert cells == expected, head


def test_the_table_of_methods_and_teachers_is_true():
    counts = students_of()
    page = pages()["docs/reference/methods/index.md"]
    names = list(counts["PKD"])
    assert "| | " + " | ".join(names) + " |" in page
    for method, row in counts.items():
        line = f"| {method} | " + " | ".join(str(x or "-") for x in row.values()) + " |"
        assert line in page, line
    assert f"of the {len(DETECTED)} kinds of students" in page


def test_every_file_that_the_readme_names_exists():
    for name in re.findall(
        r"(?:configs|docs|datasets|benchmarks|tools|studies)/[\w./-]+\.\w+", readme()
    ):
        if not name.startswith(
            ("datasets/cells", "configs/mine", "tools/train_net", "tools/lazyconfig_train_net")
        ):
            assert (ROOT / name).exists(), name


def test_every_head_is_in_the_readme_and_in_the_table_of_what_it_reads():
    for name, head in DISTILLATION_HEAD_REGISTRY:
        if head.__module__.startswith("d2kd."):
            for page in "README.md", "docs/reference/methods/index.md":
                assert f"| {name} |" in pages()[page], name


def test_every_config_of_distill_is_among_the_recipes():
    text = pages()["docs/reference/recipes.md"]
    for path in sorted((ROOT / "configs" / "distill").glob("*.yaml")):
        assert Path(path).name in text, path.name
