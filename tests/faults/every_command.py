"""Runs every command on hostile input and prints, as json, what `Watch` saw of each.

python -m tests.faults.every_command FOLDER SQUARES
"""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from tests.faults.broken import Call
from tests.faults.watch import Watch, silent
from tests.helpers import d2kd, detector, write_config

HUGGING_FACE = {  # folders, and what their config.json sets
    "hf_pickle": {"num_queries": 5, "d_model": 32, "decoder_layers": 1, "encoder_layers": 1},
    "hf_code": {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config",
                "AutoModelForObjectDetection": "code.Model"}},
    "hf_code_of_ours": {"auto_map": {"AutoConfig": "code.Config"}},
    "hf_kernel": {"attn_implementation": "evil/kernel"},
    "hf_trunk": {"use_timm_backbone": True, "backbone": "hf-hub:evil/model"},
}  # fmt: skip

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"
)
ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1:9/x">]><annotation>&x;</annotation>'
TAG = "!!python/object/apply:os.system ['touch RAN']"
LAZY = """model:
  _target_: detectron2.modeling.RetinaNet
  pixel_mean: [0]
  pixel_std: [1]
  num_classes: 2
  backbone: """
LAZY_VALUES = {
    "system": "{_target_: os.system, command: touch RAN}",
    "eval": "{_target_: builtins.eval, source: 'open(\"RAN\", \"w\")'}",
    "load": "{_target_: detectron2.config.LazyConfig.load, filename: code.py}",
    "zoo": "{_target_: detectron2.model_zoo.get, config_path: COCO-Detection/fcos_R_50_FPN_1x.py}",
    "hub": "{_target_: detectron2.modeling.backbone.vit.torch.hub.load, repo_or_dir: a/b}",
    "torch": "{_target_: detectron2.layers.wrappers.torch.load, f: evil.pth}",
    "serialization": "{_target_: torch.nn.modules.module.torch.serialization.load, f: evil.pth}",
    "globals": "{_target_: detectron2.modeling.ResNet.__init__.__globals__}",
    "popen": "{_target_: subprocess.Popen, args: [touch, RAN]}",
    "import": "{_target_: importlib.import_module, name: code}",
    "mmdet": "{_target_: detectron2.modeling.mmdet_wrapper.MMDetBackbone, backbone: {type: x}}",
    "inner": "{_target_: detectron2.modeling.ResNet, stem: {a: [{_target_: os.system}]}}",
    "apply": TAG,
    "new": "!!python/object/new:subprocess.Popen [[touch, RAN]]",
    "class": "!!python/object:subprocess.Popen {args: [touch, RAN]}",
    "module": "!!python/module:code ''",
    "name": "[!!python/name:os.system '']",
    "partial": "!!python/object/apply:functools.partial {args: [!!python/name:os.system ''], "
               "state: !!python/tuple [!!python/name:os.system '', !!python/tuple [], {}, null]}",
    "environment": "{a: '${oc.env:HOME}'}",
    "anchors": "[&a [x, x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a, *a, *a], &c [*b, *b, *b, "
               "*b, *b, *b, *b, *b], &d [*c, *c, *c, *c, *c, *c, *c, *c], &e [*d, *d, *d, *d, *d, "
               "*d, *d, *d], [*e, *e, *e, *e, *e, *e, *e, *e]]",
    "elsewhere": "{}\ntrain: {a: " + TAG + ", b: '${oc.env:HOME}'}\ndataloader: " + TAG,
}  # fmt: skip


def evil_files():
    """Weights files in every format that can call a function, and other files of users."""
    payload = {"model": {"head.weight": Call(os.system, "touch RAN")}}
    for name in ("evil.pkl", "evil.safetensors", "evil.pyth", "proposals.pkl"):
        Path(name).write_bytes(pickle.dumps(payload))
    torch.save(payload, "evil.pth")
    torch.save(payload, "old.pth", _use_new_zipfile_serialization=False)
    with open("plain.pth", "wb") as file:
        pickle.dump(Call(os.system, "touch RAN"), file)
    torch.jit.script(torch.nn.Linear(2, 2)).save("script.pth")
    torch.save({"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()}, "good.pth")
    texts = {
        "tag.yaml": f"OUTPUT_DIR: {TAG}", "tag_base.yaml": "_BASE_: tag.yaml",
        "address.yaml": "_BASE_: http://127.0.0.1:9/a.yaml", "code.py": "import os; os.system('x')",
        "plan_tag.yaml": f"output: {TAG}\nmodels: {{a: {{config: base.yaml}}}}",
        "plan_address.yaml": "output: out\nmodels: {a: {config: 'http://127.0.0.1:9/a.yaml'}}",
        "plan_weights.yaml": "output: out\nmodels: {a: {config: base.yaml, options: [MODEL.WEIGHTS,"
                             " evil.pth]}}\ncorruptions: {names: [contrast], severities: [1]}",
        "study_tag.yaml": f"output: {TAG}\nseeds: [1]\nrows: {{a: {{config: base.yaml}}}}",
        "study_code.yaml": "output: o\nseeds: [1]\nrows: {a: {config: base.yaml}}\n"
                           "imports: [code.py]",
        "study_option.yaml": "output: o\nseeds: [1]\nrows: {a: {config: base.yaml, options: "
                             "[--import, code.py]}}",
        "study_seed.yaml": "output: o\nseeds: [--import=code.py]\nrows: {a: {config: base.yaml}}",
        "study_output.yaml": "output: --import=o\nseeds: [1]\nrows: {a: {config: base.yaml}}",
        "study_row.yaml": "output: .\nseeds: [1]\nrows: {--import=a: {config: base.yaml}}",
    }  # fmt: skip
    for name, text in texts.items():
        Path(name).write_text(text)


def evil_data(squares):
    """Data sets: pictures that are programs, names and addresses for whatever reads them."""
    data = json.loads((squares / "squares.json").read_text())
    for image in data["images"]:
        image.update(coco_url="http://127.0.0.1:9/x.png", flickr_url="http://127.0.0.1:9/x.png")
    data["categories"][0]["name"] = "{{ ''.__class__ }}$\\input{x}${__import__('os')}"
    Path("named.json").write_text(json.dumps(data))
    Path("detections.json").write_text(json.dumps([
        {"image_id": image, "category_name": name, "bbox": [1, 2, 30, 40], "score": 0.5}
        for image, name in ((0, "red"), (1, data["categories"][0]["name"]), ("../../x", TAG))
    ]))  # fmt: skip
    shutil.copytree(squares, "eps")
    for file in Path("eps").glob("*.png"):
        file.write_bytes(EPS)
    for image in data["images"]:
        image["file_name"] = "http://127.0.0.1:9/x.png"
    Path("remote.json").write_text(json.dumps(data))
    for folder in ("yolo/images/train", "voc/Annotations", "voc/ImageSets/Main", "voc/JPEGImages"):
        Path(folder).mkdir(parents=True)
    Path("yolo/data.yaml").write_text(f"train: images/train\nnames: {TAG}")
    shutil.copytree(squares, "notes/images", ignore=shutil.ignore_patterns("*.json"))
    Path("notes/images/0.txt").write_text("0 0.5 0.5 0.5 0.5")
    Path("notes/notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": TAG}]}))
    Path("voc/Annotations/0.xml").write_text(ENTITY)
    Path("voc/ImageSets/Main/train.txt").write_text("0\n")
    shutil.copy(squares / "0.png", "voc/JPEGImages/0.png")


def evil_runs():
    """Folders of runs whose files name other files, or hold code."""
    for name, last in {"run_code": "evil.pth", "run_away": f"{os.getcwd()}/evil.pth",
                       "run_address": "http://127.0.0.1:9/x.pth"}.items():  # fmt: skip
        Path(name).mkdir()
        shutil.copy("base.yaml", f"{name}/config.yaml")
        shutil.copy("evil.pth", f"{name}/evil.pth")
        Path(name, "last_checkpoint").write_text(last)
        shutil.copytree(name, f"{name}_on", ignore=shutil.ignore_patterns("*.yaml"))
    for name, value in LAZY_VALUES.items():
        Path(f"lazy_{name}").mkdir()
        Path(f"lazy_{name}", "config.yaml").write_text(f"{LAZY}{value}\n")
        shutil.copy("evil.pth", f"lazy_{name}/config.yaml.pkl")
        shutil.copy("evil.pth", f"lazy_{name}/model_final.pth")
        Path(f"lazy_{name}", "last_checkpoint").write_text("model_final.pth")
    for name, values in HUGGING_FACE.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(json.dumps({"model_type": "detr", **values}))
        Path(name, "preprocessor_config.json").write_text('{"do_normalize": false}')
        shutil.copy("evil.pth", f"{name}/model.safetensors")
        shutil.copy("evil.pth", f"{name}/pytorch_model.bin")
        Path(name, "code.py").write_text("import os; os.system('touch RAN')")
    evil_capsules()
    evil_reports()
    shutil.copytree("run_code", "run_tag")
    shutil.copy("tag.yaml", "run_tag/config.yaml")


def evil_reports():
    """Reports of studies that name code."""
    for path in Path(".").glob("study_*.yaml"):
        runs = {"a": {"1": {"threads": TAG, "cpu": TAG}}}
        report = {"study": path.read_text(), "values": {"a": {"1": 1.0}}, "runs": runs}
        path.with_suffix(".json").write_text(json.dumps(report))


def evil_capsules():
    """Failed steps whose files are pickles, or name what would be run or fetched."""
    reason = {key: TAG for key in ("type", "text", "said", "where")}
    record = {"format": 1, "iteration": 0, "reason": reason, "run": {"threads": 1}, "cpu": TAG,
              "random": {"numpy": ["MT19937", 0, 0, 0.0], "python": [3, None]}, "batch": [],
              "guard": {}, "scaler": {}, "teachers": [], "missing": [TAG]}  # fmt: skip
    state = {"random.torch": torch.get_rng_state(), "random.numpy": torch.zeros(624).long(),
             "random.python": torch.ones(625).long(), "norm": torch.zeros(1),
             "norms": torch.zeros(1)}  # fmt: skip
    for name, path in {"code": "../evil.pth", "weights": "../evil.safetensors", "tag": "",
                       "address": "http://127.0.0.1:9/x.pth"}.items():  # fmt: skip
        folder = Path(f"capsule_{name}")
        folder.mkdir()
        shutil.copy("tag.yaml" if name == "tag" else "base.yaml", folder / "config.yaml")
        checkpoint = {"path": path, "sha256": "", "has": {"student": ["head.weight"]}}
        text = json.dumps({**record, "checkpoint": checkpoint})
        (folder / "capsule.json").write_text(text)
        save_file(state, folder / "state.safetensors")
        save_file({}, folder / "batch.safetensors")
        shutil.copy("evil.pth", folder / "heads.safetensors" if name == "weights" else folder / "x")


def custom(name, file, folder):
    """Options that train and test on one json, and write into a folder of its name."""
    entry = f"[['{name}', '{os.path.abspath(file)}', '{os.path.abspath(folder)}']]"
    names = f"('{name}',)"
    data = ["DATASETS.CUSTOM", entry, "DATASETS.TRAIN", names, "DATASETS.TEST", names]
    return [*data, "OUTPUT_DIR", f"out_{name}"]


def cases(squares):
    """Name -> the words behind `d2kd`."""
    proposals = "MODEL.LOAD_PROPOSALS", "True"
    for kind in ("TRAIN", "TEST"):
        proposals += f"DATASETS.PROPOSAL_FILES_{kind}", "('proposals.pkl',)"
    timm = "MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"
    offline = "--distill", "SetKD", "OUTPUT_DIR", "out_offline", "DISTILL.SetKD.OFFLINE"
    weights = ("evil.pkl", "evil.safetensors", "evil.pyth", "old.pth", "plain.pth", "script.pth",
               "https://127.0.0.1:9/../../x.pth", "ftp://127.0.0.1/x.pth")  # fmt: skip
    found = {f"eval {x}": ["eval", "base.yaml", "--weights", x] for x in weights}
    for config in ("tag.yaml", "tag_base.yaml", "address.yaml", "code.py", "run_tag",
                   "http://127.0.0.1:9/a.yaml", "COCO-Detection/../../../../tag.yaml"):  # fmt: skip
        found[f"train {config}"] = ["train", config]
    for config in ("tag.yaml", "http://127.0.0.1:9/a.yaml", "run_code"):
        found[f"teacher {config}"] = ["train", "base.yaml", "--teacher", config]
    for name in LAZY_VALUES:
        found[f"lazy {name}"] = ["train", "base.yaml", "--teacher", f"lazy_{name}"]
    found["lazy, trusted"] = ["train", "base.yaml", "--teacher", "lazy_apply", "--trust-config",
                              "lazy_apply/config.yaml"]  # fmt: skip
    for name in HUGGING_FACE:
        found[f"hugging face {name}"] = ["train", "base.yaml", "--teacher", f"hf:{name}"]
    found["eval lazy"] = ["eval", "lazy_hub"]
    for run in ("run_code", "run_away", "run_address"):
        found[f"eval {run}"] = ["eval", run]
    for name in ("code", "weights", "tag", "address"):
        found[f"replay {name}"] = ["replay", f"capsule_{name}"]
    for run in ("run_code", "run_away"):
        found[f"resume {run}"] = ["train", "base.yaml", "--resume", "--output", f"{run}_on"]
    for plan in ("tag", "address", "weights"):
        found[f"plan {plan}"] = ["robustness", f"plan_{plan}.yaml"]
    for plan in ("tag", "code", "option", "seed", "output", "row"):
        found[f"study {plan}"] = ["study", f"study_{plan}.yaml"]
        found[f"study {plan}, report"] = ["study", f"study_{plan}.yaml", "--report"]
    for plan in ("tag", "code", "option", "seed", "row"):
        words = ["--row", "a", "--seed", "1"]
        found[f"report {plan}"] = ["reproduce", f"study_{plan}.json", *words]
    for name in ("hf-hub:evil/model", "local-dir:.", "resnet18.hf-hub:evil"):
        found[f"timm {name}"] = ["check", "base.yaml", *timm, "MODEL.TIMM.NAME", name]
    return found | {
        "train, proposals": ["train", "base.yaml", *proposals],
        "check, proposals": ["check", "base.yaml", *proposals],
        "eval, proposals": ["eval", "base.yaml", "--weights", "good.pth", *proposals],
        "train, weights": ["train", "base.yaml", "MODEL.WEIGHTS", "evil.pkl"],
        "teacher weights": ["train", "base.yaml", "--teacher", "base.yaml", "--teacher-weights",
                            "evil.pth"],
        "tokens": ["train", "base.yaml", "--teacher", "base.yaml", "--teacher-weights", "good.pth",
                   "--distill", "MasKD", "DISTILL.MasKD.TOKENS", "evil.safetensors"],
        "timm checkpoint": ["check", "base.yaml", *timm, "MODEL.TIMM.CHECKPOINT", "evil.pth"],
        "offline pickle": ["train", "base.yaml", *offline, "evil.pth"],
        "offline address": ["train", "base.yaml", *offline, "http://127.0.0.1:9/a.json"],
        "offline names": ["train", "base.yaml", *offline, "detections.json"],
        "predict": ["predict", "run_code", str(squares)],
        "quality": ["quality", "base.yaml", "--weights", "evil.pth"],
        "export": ["export", "base.yaml", "--weights", "evil.pth"],
        "compare weights": ["compare", "evil.pth", "evil.safetensors"],
        "compare pickles": ["compare", "good.pth", "evil.pkl"],
        "compare configs": ["compare", "base.yaml", "tag.yaml"],
        "compare runs": ["compare", "run_code", "run_tag"],
        "convert weights": ["convert", "weights", "evil.pth", "x.safetensors"],
        "convert mmdet": ["convert", "mmdet", "evil.pth", "out"],
        "convert yolo": ["convert", "yolo", "yolo/data.yaml", "out"],
        "convert voc": ["convert", "voc", "voc", "out"],
        "data yolo": ["data", "yolo"],
        "data voc": ["data", "voc"],
        "data yolo, written": ["data", "yolo", "--output", "new1"],
        "data voc, written": ["data", "voc", "--output", "new2"],
        "data notes": ["data", "notes", "--output", "new3"],
        "data eps": ["data", "eps", "--output", "new4", "--pictures", "sheet.png"],
        "train, eps": ["train", "base.yaml", *custom("eps", "eps/squares.json", "eps")],
        "predict eps": ["predict", "base.yaml", "eps", "--weights", "good.pth"],
        "train, remote images": ["train", "base.yaml", *custom("remote", "remote.json", squares)],
        "train, names": ["train", "base.yaml", *custom("named", "named.json", squares)],
    }  # fmt: skip


def main(folder, squares):
    """Prepare, show that the watch sees, run all."""
    os.chdir(folder)
    shutil.move(write_config(Path("c"), squares, SOLVER__MAX_ITER=1), "base.yaml")
    data = yaml.safe_load(Path("base.yaml").read_text())
    Path("base.yaml").write_text(yaml.safe_dump({**data, "OUTPUT_DIR": "out"}))
    evil_files()
    evil_data(squares)
    evil_runs()
    watch = Watch([folder, os.environ["MPLCONFIGDIR"]])
    sys.addaudithook(watch)
    report = {"silent": silent(watch, Path(os.environ["OUTSIDE"])), "cases": {}}
    for name, words in cases(squares).items():
        watch.found, watch.on = [], True
        done = d2kd(*words)
        watch.on = False
        report["cases"][name] = [done.exit_code, done.output[-600:], watch.found[:3]]
    print(json.dumps(report))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
