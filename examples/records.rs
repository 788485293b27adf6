//! Reads a record, prints its table, draws a figure: `cargo run --example records`.

use std::path::Path;

use stepback_native::Result;
use stepback_native::results::plot::chart::Style;
use stepback_native::results::plot::{self, Selection};
use stepback_native::results::table::{Format, Query, Table};
use stepback_native::results::{measure, record};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // One record for each problem: here all runs are of one.
    let records = record::read_csv(&root.join("records/mnist_mlp.csv"))?;

    let query = Query {
        score: "val_score",
        cutoff: None,
        columns: &[],
        target: None,
        sort: None,
    };
    print!("{}", Table::new(&records, &query)?.render(Format::Markdown));
    let record = &records[0];

    let score = record.metric("val_score")?;
    for method in record.methods() {
        if let Some(decades) = measure::robustness(record, method, score, None) {
            println!("{method}: within one point of its best over {decades:.1} decades of lr");
        }
    }

    let figure = plot::stability(record, "val_score", &Selection::default())?;
    let path = std::env::temp_dir().join("stability.svg");
    std::fs::write(&path, figure.draw(&Style::default()).svg())
        .map_err(|e| stepback_native::Error::io("write", &path, &e))?;
    println!("{}", path.display());
    Ok(())
}
