"""Scores the mean of several networks: `score_mean.py DATA LIST OUT RUN RUN ...`.

DATA is the folder of the scans, LIST a text file with one scan ID per line, OUT a new JSON file.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from lgermt.data.datasets import load_scan
from lgermt.data.splits import read_list
from lgermt.evaluation.ensemble import load_models
from lgermt.evaluation.margins import margins_to_classes, mean_margins
from lgermt.evaluation.metrics import mean_and_std
from lgermt.evaluation.scoring import score_case
from lgermt.utils.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the scans")
    parser.add_argument("list", type=Path, help="file with the IDs to score")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of trained runs")
    options = parser.parse_args()
    models, config, _ = load_models(options.runs[0], options.runs[1:])
    cases = []
    for case in tqdm(read_list(options.list)):
        volume = load_scan(options.data, case, labeled=True)
        margins, _ = mean_margins(models, volume.image, config)
        cases.append(score_case(volume, margins_to_classes(margins), config.classes))
    about = {"method": config.method, "networks": len(models), "split": options.list.name}
    write_json(options.out, {**about, "cases": cases, **mean_and_std(cases)})


if __name__ == "__main__":
    main()
