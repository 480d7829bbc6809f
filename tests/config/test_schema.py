"""The JSON schema of the keys: it fits every config that is shipped, and refuses mistakes."""

import json

import jsonschema
import pytest
import yaml

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.keys import flatten
from d2kd.config.schema import config_schema
from d2kd.heads import DISTILLATION_HEAD_REGISTRY
from tests.conftest import ROOT
from tests.helpers import d2kd

FILES = [p for x in ("configs", "studies/configs") for p in sorted((ROOT / x).rglob("*.yaml"))]


@pytest.fixture(scope="module")
def schema():
    return config_schema()


def leaves(node, prefix=""):
    for key, value in node["properties"].items():
        if "properties" in value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fits(schema, text):
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(text) or {})


def test_it_has_all_keys_and_their_defaults(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    found = {key: leaf["default"] for key, leaf in leaves(schema) if key != "_BASE_"}
    assert found == flatten(get_d2kd_cfg())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_shipped_configs_fit(schema, path):
    fits(schema, path.read_text())


def test_the_whole_of_a_config_fits(schema):
    fits(schema, get_d2kd_cfg().dump())


@pytest.mark.parametrize("text", [
    "DISTILL: {HEADZ: [PKD]}", "SOLVER: {BASE_LR: fast}", "DISTILL: {HEADS: PKD}",
    "SOLVER: {MAX_ITER: 0}", "MODEL: {RETINANET: {PRIOR_PROB: 1.5}}", "MODLE: {}",
    "SOLVER: {OPTIMIZER: Adamax}", "DISTILL: {TEACHER: {PRECISION: fp8}}", "MODEL: RetinaNet",
    "SOLVER: {BASE_LR: -0.1}", "DETERMINISTIC: maybe",
])  # fmt: skip
def test_mistakes_do_not_fit(schema, text):
    with pytest.raises(jsonschema.ValidationError):
        fits(schema, text)


def test_own_keys_are_described(schema):
    texts = {key: leaf.get("description") for key, leaf in leaves(schema)}
    lacking = [k for k in texts if k.startswith("DISTILL.") and not texts[k]]
    heads = [name for name, head in DISTILLATION_HEAD_REGISTRY if head.__module__[:5] != "d2kd."]
    assert [key for key in lacking if key.split(".")[1] not in heads] == []
    assert texts["DISTILL.PKD.NUM_LEVELS"] == "number of common strides used, from the finest."
    assert texts["MODEL.GFL.SDGQP.TOPK"].startswith("largest probabilities of a side")
    assert texts["MODEL.GFL.ASSIGNER_TOPK"] == "candidates per level and box"
    assert texts["SOLVER.OPTIMIZER"] and texts["MODEL.TIMM.NAME"] and texts["MODEL.FCOS.SCORE"]


def test_the_command_prints_it(schema):
    done = d2kd("config", "--schema")
    assert done.exit_code == 0 and json.loads(done.stdout) == json.loads(json.dumps(schema))


def test_the_command_prints_a_config():
    done = d2kd("config", "train/gfl_R_18_FPN_1x.yaml", "SOLVER.MAX_ITER", 7)
    assert done.exit_code == 0
    cfg = yaml.safe_load(done.stdout)
    assert cfg["SOLVER"]["MAX_ITER"] == 7 and cfg["MODEL"]["META_ARCHITECTURE"] == "GFL"
    assert yaml.safe_load(d2kd("config").stdout)["SOLVER"]["MAX_ITER"] == 40000
    wrong = d2kd("config", "train/gfl_R_18_FPN_1x.yaml", "SOLVER.MAX_ITERS", 7)
    assert wrong.exit_code == 1 and "Did you mean SOLVER.MAX_ITER" in wrong.output
    assert d2kd("config", "train/gfl_R_18_FPN_1x.yaml", "--schema").exit_code == 2
