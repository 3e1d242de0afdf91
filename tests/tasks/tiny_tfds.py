"""A small data set of tfds that is made on the spot."""

import tensorflow_datasets as tfds

COUNT = 40


def row(number: int) -> dict:
    return {
        "text": f"row {number} é",
        "label": -1 if number % 5 == 0 else number % 2,
        "answers": [f"answer {number}"] * (number % 3),
        "inner": {"name": f"name {number}"},
    }


class TinyRows(tfds.core.GeneratorBasedBuilder):
    """Rows with every kind of field that our tasks read."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {
            "text": text,
            "label": tfds.features.ClassLabel(names=["yes", "no"]),
            "answers": tfds.features.Sequence(text),
            "inner": {"name": text},
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from ((number, row(number)) for number in range(COUNT))


def prepare(folder, file_format: str) -> None:
    """Writes the data set, in two files, so that the order of reading them counts."""
    config = tfds.download.DownloadConfig(num_shards=2)
    builder = TinyRows(data_dir=folder, file_format=file_format)
    builder.download_and_prepare(download_config=config)
