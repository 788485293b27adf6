//! Names as figures show them.

use std::collections::BTreeSet;

use crate::common::files;
use stepback_native::results::record::Found;
use stepback_native::results::{Record, names};
use stepback_native::{data, models, optim};

fn first(id: &str) -> Record {
    let found = Found::find(
        id,
        &files::path("records/reference/outputs"),
        &files::path("records"),
    );
    found.unwrap().records().unwrap().remove(0)
}

#[test]
fn everything_in_a_table_has_a_name_and_nothing_else() {
    let rows: [(&str, BTreeSet<&str>); 3] = [
        (
            "methods",
            (optim::ROWS.iter())
                .chain(optim::formula::rows())
                .map(|row| row.entry.name)
                .collect(),
        ),
        (
            "datasets",
            data::ROWS.iter().map(|row| row.entry.name).collect(),
        ),
        (
            "models",
            (models::ROWS.iter().map(|row| row.entry.name))
                // Of the record of ImageNet32.
                .chain(["resnet18"])
                .collect(),
        ),
    ];
    for (kind, rows) in rows {
        let named: BTreeSet<&str> = names::all(kind).map(|pair| pair.0).collect();
        assert_eq!(named, rows, "{kind}: rows and assets/names.toml differ");
    }
}

#[test]
fn names_read_as_a_person_writes_them() {
    assert_eq!(names::method("momo-adam"), "MoMo-Adam");
    assert_eq!(names::method("mine/own.toml"), "mine/own.toml");
    assert_eq!(names::metric("val_score", true), "Validation accuracy");
    assert_eq!(names::metric("val_score", false), "Validation score");
    assert_eq!(names::metric("train_loss", true), "Training loss");
    assert_eq!(names::metric("odd", true), "odd");
    // From a record's id, from an output's config, and what says neither.
    assert_eq!(names::experiment(&first("cifar10_vit")), "CIFAR-10, ViT");
    assert_eq!(
        names::experiment(&first("imagenet32_resnet18")),
        "ImageNet32, ResNet-18"
    );
    assert_eq!(
        names::experiment(&first("synthetic_small")),
        "Synthetic linear, linear model"
    );
    let mut record = first("cifar10_vit");
    record.problem = "p=8".into();
    assert_eq!(names::experiment(&record), "CIFAR-10, ViT (p=8)");
    record.name = "my_sweep".into();
    assert_eq!(names::experiment(&record), "my_sweep (p=8)");
}
