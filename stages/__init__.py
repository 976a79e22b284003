"""The pipeline's stages, one thin script each; `dvc.yaml` is the story they tell together."""
