#!/usr/bin/env python3
"""Runs an experiment on Vertex AI by XManager, one job for each method and seed.

  python launch/xm_launch.py --name=gentle --experiment=mini --image=REGISTRY/promot_jax:TAG \\
    --bucket=my-bucket --platform=tpu_v3 --methods=promot,fine_tuning --seeds=0,1,2 --dry_run

Each job is `promot run EXPERIMENT` on one machine with its accelerators; its run folder is
/gcs/BUCKET/NAME/METHOD/seed_SEED, where Vertex AI shows the bucket as files. The same command
continues what was interrupted. Launching needs an environment of its own, because XManager wants an
older protobuf:

  python3 -m venv .xmanager && .xmanager/bin/pip install -r launch/xmanager_requirements.txt

--dry_run prints the jobs as JSON and needs neither XManager nor a Google account; with XManager it
adds the machine that Vertex AI would be asked for. docs/launch.md says the rest.
"""

import argparse
import asyncio
import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Sequence

# Accelerators of one machine for which XManager 0.8.5 finds a machine type by itself, and in which
# numbers; the first is the default. Chips of TPUs are counted as cores, as Vertex AI does. It knows
# no later TPUs and no H100: see launch/tpu_vm.sh, gke_jobset.yaml and slurm.sbatch.
PLATFORMS = {
    "tpu_v2": ("8",),
    "tpu_v3": ("8",),
    "a100": ("1", "2", "4", "8", "16"),
    "l4_24th": ("1", "2", "4", "8"),
}
# They are set from other flags: one job, one method, one seed, one folder.
TAKEN = {"MODEL_DIR": "--bucket and --name", "SEEDS": "--seeds", "METHODS": "--methods"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code: 0, or 2 after bad input."""
    arguments, passed = _parser().parse_known_args(argv)
    try:
        description = describe(arguments, passed)
        if arguments.dry_run:
            if importlib.util.find_spec("xmanager"):
                add_machines(description)
            print(json.dumps(description, indent=2))
        else:
            launch(description)
    except ValueError as error:
        print(f"xm_launch.py: {error}", file=sys.stderr)
        return 2
    return 0


def describe(arguments: argparse.Namespace, passed: Sequence[str]) -> dict:
    """Returns the whole experiment as plain values: name, image, accelerators, jobs.

    Args:
      arguments: the flags of this program.
      passed: flags that go to `promot run` as they are: --gin.NAME=VALUE and --xm_... for XManager.

    Raises:
      ValueError: a flag has a value that cannot be; the message names it.
    """
    for flag in passed:
        if not re.fullmatch(r"--(gin\.[^=]+|xm_\w+)=.*", flag, re.DOTALL):
            raise ValueError(f"unknown argument {flag!r}; values are set by --gin.NAME=VALUE")
        macro = flag.removeprefix("--gin.").split("=")[0]
        if macro in TAKEN:
            raise ValueError(f"{flag}: set by {TAKEN[macro]}")
    counts = PLATFORMS[arguments.platform]
    topology = arguments.topology or counts[0]
    if topology not in counts:
        raise ValueError(
            f"--topology={topology}: {arguments.platform} comes in {', '.join(counts)} a machine"
        )
    if not re.fullmatch(r"[\w-]+", arguments.name):
        raise ValueError(f"--name={arguments.name}: expected letters, digits, _ and -")
    bucket = arguments.bucket.removeprefix("gs://").rstrip("/")
    if not re.fullmatch(r"[\w.-]+", bucket):
        raise ValueError(f"--bucket={arguments.bucket}: expected a bucket, without a folder")
    methods = _listed("--methods", arguments.methods, r"\w+")
    seeds = _listed("--seeds", arguments.seeds, r"\d+")
    jobs = []
    for method, seed in itertools.product(methods, seeds):
        folder = "/".join(filter(None, [method, seed and f"seed_{seed}"])) or "all"
        words = ["run", arguments.experiment]
        words += [f"--gin_file={file}" for file in arguments.gin_file]
        words += [f"--methods={method}"] if method else []
        words += [f"--seeds={seed}"] if seed else []
        words.append(f"--gin.MODEL_DIR='/gcs/{bucket}/{arguments.name}/{folder}'")
        words += [flag for flag in passed if flag.startswith("--gin.")]
        jobs.append({"name": folder.replace("/", "-"), "args": words})
    return {
        "name": arguments.name,
        "image": arguments.image,
        "bucket": bucket,
        "location": arguments.location,
        "project": arguments.project,
        "requirements": {arguments.platform: topology},
        "xm_flags": [flag for flag in passed if flag.startswith("--xm_")],
        "jobs": jobs,
    }


def _listed(flag: str, value: str | None, pattern: str) -> list[str | None]:
    """Returns the parts of a list; `[None]`, the experiment's own, where there is none."""
    if value is None:
        return [None]
    parts = value.split(",")
    if not all(re.fullmatch(pattern, part) for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"{flag}={value}: expected a list without repetitions, such as 0,1 or a,b")
    return parts


def xm_jobs(description: dict) -> list:
    """Returns XManager's jobs; for Vertex AI, each a container with its arguments."""
    from xmanager import xm, xm_local
    from xmanager.xm_local import executables

    executor = xm_local.Vertex(requirements=xm.JobRequirements(**description["requirements"]))
    # The image stands in a registry, where docs/launch.md puts it; XManager builds and moves none.
    image = executables.GoogleContainerRegistryImage("promot_jax", description["image"])
    return [
        xm.Job(executable=image, executor=executor, name=job["name"], args=job["args"])
        for job in description["jobs"]
    ]


def add_machines(description: dict) -> None:
    """Puts into each job what XManager would ask Vertex AI for: its machine and arguments."""
    from xmanager import xm
    from xmanager.cloud import vertex
    from xmanager.xm import utils

    _read_xm_flags(description)
    for job, plain in zip(xm_jobs(description), description["jobs"], strict=True):
        machine = vertex.get_machine_spec(job)
        plain["machine"] = {name: getattr(value, "name", value) for name, value in machine.items()}
        plain["args"] = xm.merge_args(job.executable.args, job.args).to_list(utils.ARGV_ESCAPER)


def launch(description: dict) -> None:
    """Hands the jobs to Vertex AI; returns when it has accepted them, without waiting for them.

    Raises:
      ValueError: XManager is not installed, there is no Google account, or Google refuses.
    """
    try:
        from xmanager import xm_local
        from xmanager.cloud import vertex
    except ImportError as error:
        raise ValueError(
            f"{error.name} is missing; install launch/xmanager_requirements.txt in an environment "
            "of its own, or give --dry_run"
        ) from None
    from absl import logging
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from googleapiclient.errors import HttpError
    from httplib2 import HttpLib2Error

    _read_xm_flags(description)
    # XManager reads the bucket for its own files from the environment.
    os.environ["GOOGLE_CLOUD_BUCKET_NAME"] = description["bucket"]

    # What fails reaches us as an exception; XManager prints its trace besides.
    logging.set_verbosity(logging.FATAL)

    async def submit():
        async with xm_local.create_experiment(experiment_title=description["name"]) as experiment:
            for job in xm_jobs(description):
                await experiment.add(job)

    try:
        vertex.set_default_client(vertex.Client(description["project"], description["location"]))
        asyncio.run(submit())
    except DefaultCredentialsError:
        raise ValueError(
            "there is no Google account; run `gcloud auth application-default login`"
        ) from None
    except (GoogleAPIError, GoogleAuthError, HttpError, HttpLib2Error) as error:
        raise ValueError(
            f"Google did not take the jobs ({str(error).splitlines()[0]}); look at --project, "
            "--location, the quota and your rights, then give the same command again"
        ) from None


def _read_xm_flags(description: dict) -> None:
    from absl import flags
    from xmanager import xm_flags  # defines them  # noqa: F401

    try:
        flags.FLAGS(["xm_launch.py", *description["xm_flags"]])
    except flags.Error as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Flags --gin.NAME=VALUE go to `promot run`, flags --xm_... to XManager.",
    )
    parser.add_argument("--name", required=True, help="of this sweep, in Vertex AI and the bucket")
    parser.add_argument("--experiment", required=True, help="what `promot run` shall run")
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        help="a further .gin file, by its path in the image; may be repeated",
    )
    parser.add_argument("--seeds", help="such as 0,1,2: a job for each (default: one job, all)")
    parser.add_argument(
        "--methods", help="such as promot,fine_tuning: a job for each (default: one job, all)"
    )
    parser.add_argument("--image", required=True, help="container image of launch/Dockerfile")
    parser.add_argument(
        "--bucket", required=True, help="for the run folders; with a hierarchical namespace"
    )
    parser.add_argument("--platform", choices=PLATFORMS, default="tpu_v3")
    parser.add_argument("--topology", help="accelerators of the machine (TPUs: cores)")
    parser.add_argument("--location", default="us-central1", help="region of Vertex AI")
    parser.add_argument("--project", help="(default: gcloud's)")
    parser.add_argument("--dry_run", action="store_true", help="print the jobs, launch nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
