"""The rules by which the laws are tried."""

RULES = (
    "geometric",
    "geometric floor:0.001 truncate:3",
    "max",
    "contrastive",
    "contrastive alpha:0.3",
    "mean truncate:2",
    "mean weights:entropy",
    "mean weights:consistency",
    "mean weights:perplexity",
    "geometric weights:perplexity temperature:0.2",
    "mean sharpen:0.1",
)
