"""What an experiment's file asks for, as the program reads it today: `tb show EXPERIMENT --json`."""
import json
import os
import subprocess
from pathlib import Path

from .results import ResultError

ROOT = Path(__file__).resolve().parent.parent.parent


def names():
    return sorted(file.stem for file in (ROOT / "experiments").glob("*.yaml"))


def read(name):
    """{experiment, question, driver, launches, plots, points: [{label, hash, scope, config}]}"""
    program = Path(os.environ.get("TB_BUILD_DIR", ROOT / "build")) / "tb"
    try:
        said = subprocess.run([program, "show", name, "--json"], cwd=ROOT, check=False, capture_output=True, text=True)
    except OSError as error:
        raise ResultError(f"{name}: {program} tells what its file asks for, and cannot be run ({error.strerror}); "
                          "scripts/dev build") from error
    if said.returncode:
        raise ResultError(said.stderr.strip() or f"{name}: {program} cannot read it")
    return json.loads(said.stdout)
