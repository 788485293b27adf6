"""Reads output files and what was made of them as a Python user does, with json and pandas.

    interchange.py OUTPUT.json RECORD.csv EXPORT.csv [OUTPUT.json RECORD.csv EXPORT.csv ...]

The records are computed a second time, here by pandas, from the outputs.
"""

import json
import sys

import numpy as np
import pandas as pd

NUMBERS = ["epoch", "grad_norm", "learning_rate", "model_norm", "train_epoch_time", "train_loss"]
NUMBERS += ["train_score", "val_loss", "val_score"]
SUMMARY = ["end_time", "input_dim", "output_dim", "start_time"]


def main(output, record, export):
    with open(output) as file:
        text = file.read()
    runs = json.loads(text)
    assert json.dumps(runs, indent=4, sort_keys=True) == text, "Python would write another file"
    for run in runs:
        check_run(run)
    raw = pd.concat([frame(run) for run in runs], ignore_index=True)
    for column in NUMBERS:
        assert pd.api.types.is_numeric_dtype(raw[column]), f"{column} is no column of numbers"
    assert not raw.duplicated(["id", "epoch", "run_id"]).any()

    check_record(raw, record)
    check_export(raw, pd.read_csv(export))
    print(f"{len(runs)} runs, {raw.id.nunique()} settings, {int(raw[NUMBERS].isna().any(axis=1).sum())} rows with NaN")


def check_run(run):
    assert set(run) == {"config", "history", "summary"}, set(run)
    assert isinstance(run["config"]["run_id"], int)
    assert isinstance(run["config"]["opt"]["name"], str)
    assert all(key in run["summary"] for key in SUMMARY), set(run["summary"])
    for number, epoch in enumerate(run["history"]):
        assert epoch["epoch"] == number
        assert all(key in epoch for key in NUMBERS), set(epoch)


def frame(run):
    """The run's epochs as rows, with the name of its setting."""
    opt = dict(run["config"]["opt"])
    pairs = {"name": opt.pop("name"), **opt}
    table = pd.DataFrame(run["history"]).drop(columns="step_size_list", errors="ignore")
    table["id"] = ":".join(f"{key}={value}" for key, value in pairs.items())
    table["run_id"] = run["config"]["run_id"]
    return table


def check_record(raw, path):
    columns = list(pd.read_csv(path, nrows=0).columns)
    options = columns[columns.index("name") :]
    ours = pd.read_csv(path, dtype=dict.fromkeys(options, str))
    no_metrics = ["id", "run_id", "epoch", "train_epoch_time", "eval_epoch_time"]
    metrics = [c for c in raw.columns if c not in no_metrics]
    groups = raw.groupby(["id", "epoch"], sort=True)[metrics]
    whole = groups.count().eq(groups.size(), axis=0)
    means = groups.mean().where(whole)
    stds = groups.std(ddof=1).add_suffix("_std")
    theirs = pd.concat([means, stds], axis=1).reset_index()
    assert columns == [*theirs.columns, *options], columns
    assert list(ours["id"]) == list(theirs["id"]), "ids, or their order"
    assert list(ours["epoch"]) == list(theirs["epoch"])
    for column in theirs.columns[2:]:
        a, b = ours[column].to_numpy(float), theirs[column].to_numpy(float)
        # What a std is off by is relative to the numbers that it is made of.
        size = np.abs(theirs[column.removesuffix("_std")].to_numpy(float))
        size = np.where(np.isfinite(size), size, np.abs(b))
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= 1e-12 * size)
        assert same.all(), f"{column}: {a[~same][:3]} is not {b[~same][:3]}"
    for row in ours[["id", *options]].drop_duplicates().to_dict("records"):
        pairs = dict(pair.split("=", 1) for pair in row["id"].split(":"))
        assert all(row[key] == pairs.get(key, "none") for key in options), row


def check_export(raw, ours):
    assert list(ours.columns[:3]) == ["id", "run_id", "epoch"]
    for column in raw.columns:
        if pd.api.types.is_numeric_dtype(raw[column]):
            a, b = ours[column].to_numpy(float), raw[column].to_numpy(float)
            # Older versions of pandas read the last digit wrong.
            same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= 1e-15 * np.abs(b))
        else:
            same = ours[column] == raw[column]
        assert same.all(), f"{column} of the export"
    keys = set(ours.columns) - set(raw.columns)
    assert {"name", "lr"} <= keys and set(raw.columns) <= set(ours.columns), set(ours.columns)
    # A setting's keys are those of its id.
    names = raw["id"].str.extract(r"name=([^:]+)")[0]
    assert (ours["name"].to_numpy() == names.to_numpy()).all()


if __name__ == "__main__":
    for files in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        main(*files)
