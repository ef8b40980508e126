"""The language model that names the next twelve latent actions.

Order of reading: `tokens` (codes ↔ token strings), `prompts` (scene → chat), `samples` (records →
what is asked), `processor` (chat and pictures → tensors), `network` (Qwen2.5-VL, tiny or from a
local checkpoint folder), `model` (network, processor and configuration as one), `train`, `predict`,
`features` (what planners and the student read), `evaluation`, `memory`. Nothing is imported here:
`tokens`, `prompts`, `samples`, `config` and `features` cost milliseconds, `network`, `model` and
`train` pull torch, and the transformers class is loaded when a model is built.
"""
