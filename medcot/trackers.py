"""Experiment trackers, chosen by `MEDCOT_REPORT_TO` and off by default: transformers' own integrations, told where to write.

A tracker belongs to the machine, so it is no param and no part of a fingerprint: it cannot make a stage run again. What trackers
keep locally lies under the scratch directory, never in DVC's outs or in Git. A setting that is already in the environment, such as
WANDB_MODE or MLFLOW_TRACKING_URI, is left as it is; keys are read by the trackers themselves and appear nowhere here.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

from transformers.integrations import integration_utils

from medcot.errors import DataError, MachineError
from medcot.stage import scratch_dir

REPORT_TO = "MEDCOT_REPORT_TO"
TRACKERS = ("dvclive", "mlflow", "swanlab", "tensorboard", "wandb")  # each is the name of its package too
PROJECT = "medcot"


def chosen_trackers() -> list[str]:
    """The trackers named in `MEDCOT_REPORT_TO`, a comma list, in order and without repeats; none when it is unset or empty.

    Raises DataError for a name that is none of TRACKERS, MachineError for one whose package is not installed.
    """
    names = list(dict.fromkeys(name for part in os.environ.get(REPORT_TO, "").split(",") if (name := part.strip().lower())))
    for name in names:
        if name not in TRACKERS:
            close = difflib.get_close_matches(name, TRACKERS, n=1)
            remedy = f"did you mean `{close[0]}`?" if close else f"known trackers: {', '.join(TRACKERS)}"
            raise DataError(f"environment: {REPORT_TO}", "unknown tracker", remedy, got=name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a directory `wandb/` that some run left here looks like a package without code
            remedy = f"run `pip install {name}`, or take it out of the list"
            raise MachineError(f"environment: {REPORT_TO}", f"the package of tracker {name} is not installed", remedy)
    return names


def tracking(run: str) -> dict[str, Any]:
    """The arguments of the trainer's configuration that name trackers and run; `run` is the name outside a DVC experiment.

    Raises what chosen_trackers does.
    """
    # Inside a Kubeflow job transformers adds its own tracker to any list, the empty one too.
    os.environ.setdefault("DISABLE_KUBEFLOW_INTEGRATION", "TRUE")
    names = chosen_trackers()
    if not names:
        return {"report_to": "none"}
    run_name = os.environ.get("DVC_EXP_NAME") or run
    for name in names:
        for variable, value in local_settings(name, run_name).items():
            os.environ.setdefault(variable, value)
    integration_utils.INTEGRATION_TO_CALLBACK |= {"dvclive": LocalDvclive, "swanlab": StartedSwanlab, "wandb": StartedWandb}
    return {"report_to": names, "run_name": run_name}


def tracker_dir(name: str) -> Path:
    """Where a tracker keeps its files on this machine."""
    directory = scratch_dir().absolute() / "trackers" / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def local_settings(name: str, run_name: str) -> dict[str, str]:
    """The environment variables by which a tracker learns its project and directory, and sends no more than it must."""
    match name:
        case "wandb":  # it adds its own `wandb/`; by default it also sends what the terminal shows, and source code
            return {
                "WANDB_PROJECT": PROJECT,
                "WANDB_DIR": str(tracker_dir(name).parent),
                "WANDB_CONSOLE": "off",
                "WANDB_DISABLE_CODE": "true",
            }
        case "swanlab":
            return {"SWANLAB_PROJ_NAME": PROJECT, "SWANLAB_LOG_DIR": str(tracker_dir(name))}
        case "mlflow":
            uri = f"sqlite:///{tracker_dir(name) / 'mlflow.db'}"
            return {"MLFLOW_EXPERIMENT_NAME": PROJECT, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
        case "tensorboard":
            return {"TENSORBOARD_LOGGING_DIR": str(tracker_dir(name) / run_name)}
    return {}


class LocalDvclive(integration_utils.DVCLiveCallback):  # type: ignore[misc]
    """transformers' DVCLive callback, which by default would rewrite this project's dvc.yaml and save a DVC experiment."""

    def setup(self, args: Any, state: Any, model: Any) -> None:
        from dvclive import Live

        self.live = Live(dir=str(tracker_dir("dvclive") / args.run_name), save_dvc_exp=False, dvcyaml=None)
        super().setup(args, state, model)


class StartedSwanlab(integration_utils.SwanLabCallback):  # type: ignore[misc]
    """transformers' SwanLab callback, which asks for the active run before there is one: SwanLab 0.10 calls that an error."""

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        if not self._swanlab.has_run():
            try:
                self._swanlab.init(experiment_name=args.run_name)
            except RuntimeError as error:
                remedy = "run `swanlab login`, set SWANLAB_API_KEY, or set SWANLAB_MODE=offline"
                raise MachineError("tracker swanlab", "it did not start", remedy, got=str(error)) from None
        super().setup(args, state, model, **kwargs)


class StartedWandb(integration_utils.WandbCallback):  # type: ignore[misc]
    """transformers' W&B callback; one that cannot log in gets its line."""

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        try:
            super().setup(args, state, model, **kwargs)
        except self._wandb.errors.Error as error:
            remedy = "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"
            raise MachineError("tracker wandb", "it did not start", remedy, got=str(error)) from None
