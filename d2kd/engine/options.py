"""Options of a run beside Detectron2's own, for `d2kd train` and train_net.py alike."""

OPTIONS = {
    "trust-config": ("FILE", "LazyConfig of yours that --teacher names; it is executed"),
    "import": ("FILE", "Python file of yours that registers heads, detectors or data sets"),
    "teacher": ("CONFIG", "distil from this config, model-zoo name or folder of a run"),
    "teacher-weights": ("FILE", "its checkpoint; default: the zoo's, or the run's best one"),
    "distill": ("METHOD", "PKD, or PKD,BCKD; default: what suits student and teacher"),
    "unlabelled": ("FOLDER", "images without annotations, to distil on as well"),
    "data": ("FOLDER", "data set of yours, whose splits and classes are found by its layout"),
}
TOKENS = "learn MasKD's tokens of CONFIG, a trained detector that stays as it is"
RESUME_ANYWAY = "--resume, although what the run began with (data, model, teacher, ...) has changed"
