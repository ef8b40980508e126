"""Image encoders by name: networks that have seen pictures before, frozen or as backbones."""
