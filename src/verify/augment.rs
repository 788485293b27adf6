//! Suite `augment`: the draws, and the pixels that they make of an image.

use serde::Deserialize;

use super::goldens::Digest;
use super::images::{SIDE, SmallSet};
use super::{Check, Context};
use crate::data::augment::Recipe;
use crate::error::Result;
use crate::random::torch::Generator;

#[derive(Deserialize)]
struct File {
    params: Vec<Draws>,
    seed: u64,
    eight_outputs: Vec<Digest>,
    ninth_output_corner_3x3x3: Vec<f64>,
}

#[derive(Deserialize)]
struct Draws {
    seed: u64,
    flip_top_left: Vec<[u8; 3]>,
}

pub fn augment(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "augment.json";
    let Some(file) = context.goldens.read::<File>(FILE)? else {
        return Ok(vec![Check::skip("images", format!("no {FILE}"))]);
    };
    let mut draws = Check::new("flips and corners of crops", 0.0);
    for case in &file.params {
        let mut generator = Generator::new(case.seed);
        draws.cases += 1;
        for (i, theirs) in case.flip_top_left.iter().enumerate() {
            let placement = Recipe::FlipThenCrop.draw(&mut generator);
            let (flip, top, left) = (placement.flip(), placement.top(), placement.left());
            for (ours, theirs) in [u8::from(flip), top, left].into_iter().zip(theirs) {
                draws.compare(ours.into(), f64::from(*theirs), 1.0, || {
                    format!("image {i}")
                });
            }
        }
    }

    // Byte k of the one image of the set, in (row, column, channel) order, is 7 k mod 256.
    let set = SmallSet::new(std::iter::once(0), std::iter::once(0), |_, c, y, x| {
        7 * ((y * SIDE + x) * 3 + c)
    })?;
    let image = set.library().load(set.request())?.train;
    let mut generator = Generator::new(file.seed);
    let mut next = || {
        let (mut pixels, mut class) = (vec![0.0; 3 * SIDE * SIDE], [0.0]);
        let placements = image.draw_placements(1, &mut generator);
        image.gather(&[0], &placements, &mut pixels, &mut class);
        // Into PyTorch's order.
        let plane = |c: usize| pixels.iter().skip(c).step_by(3).copied();
        (0..3).flat_map(plane).collect::<Vec<f32>>()
    };
    let mut pixels = Check::new("pixels", 0.0);
    let mut sums = Check::new("sums and norms of images", 1e-9);
    for (i, theirs) in file.eight_outputs.iter().enumerate() {
        let ours = next();
        sums.cases += 1;
        sums.compare_digest(&ours, theirs, &format!("image {i}"));
        pixels.cases += 1;
        for (k, theirs) in theirs.shown().filter(|(k, _)| *k < ours.len()) {
            let at = || format!("image {i} pixel {k}");
            pixels.compare(f64::from(ours[k]), theirs, 1.0, at);
        }
    }
    let ninth = next();
    pixels.cases += 1;
    for (k, theirs) in file.ninth_output_corner_3x3x3.iter().enumerate() {
        let (channel, y, x) = (k / 9, k / 3 % 3, k % 3);
        let at = (channel.min(2) * SIDE + y) * SIDE + x;
        pixels.compare(f64::from(ninth[at]), *theirs, 1.0, || {
            format!("image 8 channel {channel} row {y} column {x}")
        });
    }
    Ok(vec![draws, pixels, sums])
}
