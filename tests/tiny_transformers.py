"""Tiny detectors of transformers with random weights, one of each family."""

import torch

NAMES = {0: "fish", 1: "N/A", 2: "starfish"}
_LABELS = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
_QUERIES = {"d_model": 32, "num_queries": 10, "decoder_layers": 2, "decoder_ffn_dim": 16, **_LABELS}
_DETR = {
    **_QUERIES, "encoder_layers": 1, "encoder_ffn_dim": 16, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "use_timm_backbone": False, "backbone": None,
}  # fmt: skip
_HYBRID = {
    **_QUERIES, "encoder_hidden_dim": 32, "encoder_in_channels": [8, 16, 16], "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2, "decoder_in_channels": [32] * 3, "decoder_attention_heads": 2,
    "num_denoising": 0,
}  # fmt: skip
_WINDOWED = {
    **_QUERIES, "decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2,
    "group_detr": 1,
}  # fmt: skip
_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = (
    "RTDetr", "RTDetrV2", "DFine", "Deimv2", "DeformableDetr", "Detr", "ConditionalDetr", "DabDetr",
    "Yolos", "LwDetr", "RfDetr",
)  # fmt: skip


def tiny(family):
    """A detector in eval mode whose every layer has a say."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options_of(family))
    model = transformers.AutoModelForObjectDetection.from_config(config).eval()
    with torch.no_grad():
        for name, x in model.named_buffers():
            if name.endswith("running_var"):
                x.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                x.normal_(0, 0.1)
        for x in model.parameters():
            x.add_(torch.randn_like(x) * 0.1)
    return model


def save(family, folder, **pixels):
    """The folder that transformers writes of a tiny detector and of its image processor."""
    import transformers

    model = tiny(family)
    model.save_pretrained(folder)
    processors = {"RTDetrV2": "RTDetr", "DFine": "RTDetr", "Deimv2": "RTDetr",
                  "DabDetr": "ConditionalDetr", "LwDetr": "DeformableDetr"}  # fmt: skip
    name = f"{processors.get(family, family)}ImageProcessor"
    processor = getattr(transformers, name)(**pixels)
    processor.save_pretrained(folder)
    return model, processor


def options_of(family):
    """Of its config."""
    import transformers as library

    if family.startswith("RTDetr"):
        trunk = library.RTDetrResNetConfig(**_resnet("stage2", "stage3", "stage4"))
        return {"backbone_config": trunk, **_HYBRID}
    if family in ("DFine", "Deimv2"):
        return {"backbone_config": _hgnet(library), **_HYBRID}
    if family == "Yolos":
        sizes = {"intermediate_size": 16, "image_size": [64, 96], "num_detection_tokens": 10}
        return {**_VIT, **sizes, **_LABELS}
    if family == "LwDetr":
        trunk = library.LwDetrViTConfig(
            **_VIT, image_size=256, pretrain_image_size=64, num_windows=4,
            window_block_indices=[0], out_indices=[1, 2],
        )  # fmt: skip
        return {"backbone_config": trunk, "projector_scale_factors": [2.0, 0.5], **_WINDOWED}
    if family == "RfDetr":
        trunk = library.RfDetrDinov2Config(
            **_VIT, image_size=56, patch_size=14, num_windows=2, out_indices=[1, 2]
        )
        return {"backbone_config": trunk, **_WINDOWED}
    levels = ("stage2", "stage3", "stage4") if family == "DeformableDetr" else ("stage4",)
    options = {**_DETR, "backbone_config": library.ResNetConfig(**_resnet(*levels))}
    if family == "DabDetr":
        options["hidden_size"] = options.pop("d_model")
    return options


def _resnet(*levels):
    return {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4,
            "layer_type": "basic", "out_features": list(levels)}  # fmt: skip


def _hgnet(library):
    return library.HGNetV2Config(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_indices=[2, 3, 4],
        stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 8, 16], stage_mid_channels=[4] * 4,
        stage_out_channels=[8, 8, 16, 16], stage_num_blocks=[1] * 4,
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5], stage_numb_of_layers=[1] * 4,
    )  # fmt: skip
