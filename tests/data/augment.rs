//! Augmentation against flips and crops done one pixel at a time.

use super::cifar::{ImageSet, byte};
use super::{all, gather};
use stepback_native::data::Split;
use stepback_native::data::augment::{PADDING, Placement, Recipe};
use stepback_native::random::torch::Generator;

const SIDE: usize = 32;

/// Row, column of the image that a pixel of the result shows, or none where it shows the border.
fn seen(y: usize, x: usize, flip: bool, top: usize, left: usize) -> Option<(usize, usize)> {
    let y = (y + top).checked_sub(PADDING).filter(|y| *y < SIDE)?;
    let x = (x + left).checked_sub(PADDING).filter(|x| *x < SIDE)?;
    Some((y, if flip { SIDE - 1 - x } else { x }))
}

fn placed(split: &Split, index: u32, placement: Placement) -> Vec<f32> {
    let (mut x, mut y) = (vec![f32::NAN; 3 * SIDE * SIDE], vec![f32::NAN]);
    split.gather(&[index], &[placement], &mut x, &mut y);
    x
}

#[test]
fn every_placement_shows_the_right_pixels() {
    let set = ImageSet::cifar10(&[3; 5], 2);
    let split = set.load().train;
    let (plain, _) = gather(&split, &[1]);
    let (mean, std) = ([0.4914f32, 0.4822, 0.4465], [0.2470f32, 0.2435, 0.2616]);
    for (top, left) in (0..9).flat_map(|top| (0..9).map(move |left| (top, left))) {
        for flip in [false, true] {
            let placement = Placement::new(flip, top, left);
            let found = placed(&split, 1, placement);
            for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
                let place = seen(y, x, flip, top.into(), left.into());
                for c in 0..3 {
                    let value = place.map_or(0, |(y, x)| byte(1, c, y, x));
                    let expected = (f32::from(value) / 255.0 - mean[c]) / std[c];
                    assert_eq!(
                        found[(y * SIDE + x) * 3 + c],
                        expected,
                        "{placement:?} {y} {x}"
                    );
                }
            }
        }
    }
    let middle = Placement::new(false, 4, 4);
    assert_eq!(placed(&split, 1, middle), plain);
}

#[test]
fn draws_come_in_the_order_of_the_recipe() {
    let mut flips = 0;
    for seed in 0..200 {
        let mut reference = Generator::new(seed);
        let flip = reference.rand1() < 0.5;
        let (top, left) = (reference.randint(9) as u8, reference.randint(9) as u8);
        let mut generator = Generator::new(seed);
        let drawn = Recipe::FlipThenCrop.draw(&mut generator);
        assert_eq!(drawn, Placement::new(flip, top, left));
        assert_eq!(generator.u32(), reference.u32(), "three draws, no more");
        flips += usize::from(flip);

        let mut reference = Generator::new(seed);
        let (top, left) = (reference.randint(9) as u8, reference.randint(9) as u8);
        let flip = reference.rand1() < 0.5;
        let drawn = Recipe::CropThenFlip.draw(&mut Generator::new(seed));
        // Flipped after the crop, column x shows column 31 - x of the crop.
        for (y, x) in [(0, 0), (5, 31), (31, 17), (30, 2)] {
            let in_crop = if flip { SIDE - 1 - x } else { x };
            let expected = seen(y, in_crop, false, top.into(), left.into());
            let found = seen(y, x, drawn.flip(), drawn.top().into(), drawn.left().into());
            assert_eq!(found, expected);
        }
        assert_eq!(drawn.flip(), flip);
    }
    assert!((70..130).contains(&flips), "{flips}");
}

#[test]
fn only_training_images_are_augmented() {
    let pair = ImageSet::cifar10(&[1; 5], 2).load();
    assert_eq!(pair.train.augmentation(), Some(Recipe::FlipThenCrop));
    let mut generator = Generator::new(1);
    assert_eq!(pair.train.draw_placements(4, &mut generator).len(), 4);
    let before = generator.clone().u32();
    assert!(pair.val.draw_placements(4, &mut generator).is_empty());
    assert_eq!(generator.u32(), before, "nothing is drawn");
}

#[test]
fn a_batch_is_its_images_one_by_one() {
    let split = ImageSet::cifar10(&[8; 5], 1).load().train;
    let mut generator = Generator::new(9);
    // Enough for several threads.
    let indices: Vec<u32> = (0..100).map(|i| i * 7 % 40).collect();
    let placements = split.draw_placements(100, &mut generator);
    let (mut x, mut y) = (vec![f32::NAN; 100 * 3072], vec![f32::NAN; 100]);
    split.gather(&indices, &placements, &mut x, &mut y);
    let (_, labels) = all(&split);
    for (i, index) in indices.iter().enumerate() {
        assert_eq!(placed(&split, *index, placements[i]), x[i * 3072..][..3072]);
        assert_eq!(y[i], labels[*index as usize]);
    }
}
