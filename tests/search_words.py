"""What people type into the page's search for nodes, and the nodes that they mean."""

from __future__ import annotations

WORDS = {
    "lora training": ("DEFTTrainAdapter",),
    "early stopping": ("DEFTTrainingPreviews",),
    "best epoch": ("DEFTCompareCheckpoints",),
    "overfitting": ("DEFTCompareCheckpoints", "DEFTScoreDrift", "DEFTScoreDiversity"),
    "apply lora": ("DEFTApplyAdapter", "DEFTAdapterLoader"),
    "lora loader": ("DEFTAdapterLoader",),
    "dreambooth lora": ("DEFTTrainAdapter",),
    "dreambench": ("DEFTLoadDreamBench",),
    "captions": ("DEFTLoadFolder", "DEFTPrepareTrainingPictures"),
    "loss curve": ("DEFTTrainAdapter",),
    "image folder": ("DEFTLoadFolder", "DEFTPrepareTrainingPictures"),
    "learning rate": ("DEFTTrainAdapter", "DEFTTrainingSettings"),
    "training recipe": ("DEFTTrainingRecipe",),
    "训练配方": ("DEFTTrainingRecipe",),
    "微调": ("DEFTTrainAdapter",),
    "训练 lora": ("DEFTTrainAdapter",),
    "数据集": ("DEFTLoadFolder", "DEFTPrepareTrainingPictures"),
    "图片文件夹": ("DEFTLoadFolder", "DEFTPrepareTrainingPictures"),
    "训练图片": ("DEFTPrepareTrainingPictures",),
}
# Nodes of ComfyUI's own whose titles or ids have these words, by the language of the page: the search puts them before
# every node that has the words among its other names, and they do what was asked for.
OWN_TITLES = {
    "en": {"apply lora", "lora loader", "image folder"},
    "zh": {"apply lora", "lora loader", "image folder", "数据集"},
}
