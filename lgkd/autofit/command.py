"""Compose the command of a fit, for its report."""

import json
import shlex
from pathlib import Path

from lgkd.analysis.report.command import option_words
from lgkd.autofit.plan import in_words
from lgkd.autofit.request import Request
from lgkd.data.catalogue import CATALOGUE
from lgkd.runner.options import OPTIONS


def fit_command(request: Request, out: str) -> str | None:
    """Compose one line for a shell; folders are given by their last names, since those above do not exist elsewhere.

    Args:
        request: the arguments of the fit.
        out: the new folder.

    Returns:
        The line; None where a recipe was given as an object.
    """
    asked = request.as_dict()
    if not isinstance(asked["recipe"], str) or not isinstance(asked["teacher_recipe"], str):
        return None
    place = str(request.dataset)
    words = ["lgkd", "fit", place if place in CATALOGUE else f"{Path(asked['dataset']).name}/"]
    if (data_dir := request.options.get("data_dir")) is not None:
        words += ["--data-dir", Path(data_dir).name]
    words += ["--time", in_words(asked["time"])] if asked["time"] is not None else []
    words += ["--baseline"] if request.baseline else []
    words += [] if request.flip else ["--no-flip"]
    words += ["--seeds", ",".join(map(str, request.seeds))] if request.seeds != (0,) else []
    for name in ("student", "teacher"):
        words += [f"--{name}", asked[name]] if asked[name] is not None else []
    for key, value in request.student_options.items():
        words += ["--student-option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    for name, usual in (("recipe", "fast"), ("teacher_recipe", "teacher-fast")):
        words += ["--" + name.replace("_", "-"), Path(asked[name]).name] if asked[name] != usual else []
    if request.teacher_image_size is not None:
        words += ["--teacher-image-size", str(request.teacher_image_size)]
    words += [word for one in request.teacher_overrides for word in ("--teacher-set", one)]
    own = {name: value for name, value in asked.items() if name in OPTIONS and name not in ("recipe", "time")}
    return shlex.join([*words, *option_words(own), "--out", out])
