"""launch/gke_jobset.yaml: its form, and one process on each host of a slice."""

import math
import re
import string
import subprocess

import fastjsonschema
import pytest
import yaml

from tests.launch.launch_scripts import LAUNCH, executable, promot_arguments

NAMES = {
    "NAME": "gentle",
    "EXPERIMENT": "mini",
    "FLAGS": "--seeds 0 --gin.TITLE=\"{'a': 1} # b\"",
    "IMAGE": "registry/promot_jax:1",
    "BUCKET": "my-bucket",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "HOSTS": "4",
    "CHIPS": "4",
}


def strict(properties, required=()):
    """Returns the JSON schema of an object without other properties."""
    required = list(required or properties)
    kind = {"type": "object", "additionalProperties": False}
    return {**kind, "properties": properties, "required": required}


def listed(items):
    return {"type": "array", "items": items, "minItems": 1}


TEXT, WHOLE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
# The parts of JobSet v1alpha2, Job and Pod that the manifest uses, by their documentation.
POD = strict(
    {
        "serviceAccountName": NAME,
        "restartPolicy": {"enum": ["Never", "OnFailure"]},
        "nodeSelector": TEXTS,
        "containers": listed(
            strict(
                {
                    "name": NAME,
                    "image": TEXT,
                    "command": listed(TEXT),
                    "env": listed(strict({"name": TEXT, "value": TEXT})),
                    "resources": strict({"limits": {"type": "object"}}),
                    "volumeMounts": listed(strict({"name": NAME, "mountPath": TEXT})),
                }
            )
        ),
        "volumes": listed(
            strict({"name": NAME, "csi": strict({"driver": TEXT, "volumeAttributes": TEXTS})})
        ),
    }
)
JOB = strict(
    {
        "completionMode": {"enum": ["Indexed", "NonIndexed"]},
        "completions": WHOLE,
        "parallelism": WHOLE,
        "backoffLimit": WHOLE,
        "podFailurePolicy": strict(
            {
                "rules": listed(
                    strict(
                        {
                            "action": {"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
                            "onPodConditions": listed(strict({"type": TEXT})),
                        }
                    )
                )
            }
        ),
        "template": strict({"metadata": strict({"annotations": TEXTS}), "spec": POD}),
    }
)
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
JOBSET = strict(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": strict({"name": NAME, "annotations": TEXTS}),
        "spec": strict(
            {
                "network": strict({"enableDNSHostnames": {"type": "boolean"}}),
                "failurePolicy": strict(
                    {
                        "maxRestarts": WHOLE,
                        "rules": listed(
                            strict(
                                {
                                    "name": {"type": "string", "pattern": "^[A-Za-z]+$"},
                                    "action": {"enum": ACTIONS},
                                    "onJobFailureReasons": listed({"const": "PodFailurePolicy"}),
                                }
                            )
                        ),
                    }
                ),
                "replicatedJobs": listed(
                    strict({"name": NAME, "replicas": WHOLE, "template": strict({"spec": JOB})})
                ),
            }
        ),
    }
)


@pytest.fixture
def jobset():
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)\}", text))
    assert used == set(NAMES)
    header = text.split("apiVersion")[0]
    assert all(re.search(rf"^# .*\b{name}\b", header, re.MULTILINE) for name in used)
    return yaml.safe_load(string.Template(text).substitute(NAMES))


def test_jobset_has_the_form_of_a_jobset(jobset):
    validate = fastjsonschema.compile(JOBSET)
    validate(jobset)
    jobset["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(fastjsonschema.JsonSchemaException, match="maxRestart"):
        validate(jobset)


def test_jobset_puts_one_process_on_each_host_of_a_slice(jobset, tmp_path):
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    assert job["completions"] == job["parallelism"]
    assert job["parallelism"] * chips == math.prod(map(int, topology.split("x")))
    assert job["completionMode"] == "Indexed"
    # A lost pod ends the job, and the policy of the set starts all of them again.
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert job["podFailurePolicy"]["rules"][0]["action"] == "FailJob"
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == ACTIONS[2]
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    mount = container["volumeMounts"][0]
    assert mount["name"] == pod["volumes"][0]["name"]
    executable(tmp_path / "promot", '#!/bin/bash\nprintf "%s\\n" promot "$@"\n')
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ran = subprocess.check_output(container["command"], env=env, text=True).splitlines()
    arguments, rest = promot_arguments(ran)
    assert (arguments.experiment, arguments.distributed, arguments.seeds) == ("mini", True, "0")
    assert rest == [
        f"--gin.MODEL_DIR='{mount['mountPath']}/gentle'",
        "--gin.TITLE={'a': 1} # b",
    ]
