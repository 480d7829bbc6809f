"""A distillation method of one's own, in one file: cosine similarity of FPN features."""

from torch import nn
from torch.nn.functional import cosine_similarity

from d2kd import DISTILLATION_HEAD_REGISTRY, DistillationHead
from d2kd.heads import common_strides


@DISTILLATION_HEAD_REGISTRY.register()
class Cosine(DistillationHead):
    requires = frozenset({"features"})  # fields of DetectorOutput that forward reads

    def __init__(self, student, teacher, *, num_levels=4):  # keywords become DISTILL.Cosine.*
        super().__init__()
        self.strides = common_strides("Cosine", student, teacher)[:num_levels]
        widths = {s: (student.features[s].channels, teacher.features[s].channels)
                  for s in self.strides}  # fmt: skip
        self.project = nn.ModuleDict({str(s): nn.Conv2d(*w, 1) for s, w in widths.items()})

    def forward(self, student, teacher):
        losses = []
        for s in self.strides:
            x, y = self.project[str(s)](student.features[s]), teacher.features[s]
            losses.append(1 - cosine_similarity(x.float(), y.float(), dim=1).mean())
        return {"feat": sum(losses)}  # logged as loss_Cosine_feat, times DISTILL.Cosine.WEIGHT
