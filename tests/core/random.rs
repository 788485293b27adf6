//! Edges of torch's generator, and Philox against Random123's vectors. What torch and numpy drew is in the
//! suite `random` of `verify`, see verify.rs.

use stepback_native::random::philox;
use stepback_native::random::torch::Generator;

#[test]
fn only_the_low_half_of_a_torch_seed_counts() {
    let (mut a, mut b) = (Generator::new(7), Generator::new(7 | 9 << 32));
    assert_eq!(a.u64(), b.u64());
}

#[test]
fn large_ranges_use_two_words() {
    let (mut a, mut b) = (Generator::new(3), Generator::new(3));
    assert_eq!(a.randint(1 << 28), b.u64() % (1 << 28));
    assert_eq!(
        a.randint((1 << 28) - 1),
        u64::from(b.u32()) % ((1 << 28) - 1)
    );
}

/// The known answers of the Random123 distribution (`kat_vectors`).
#[test]
fn philox_matches_random123() {
    let zeros = philox::philox4x32_10(0, 0);
    assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let ones = philox::philox4x32_10(u64::MAX, u128::MAX);
    assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    // Digits of pi, word 0 last in these literals.
    let key = 0x299f_31d0_a409_3822;
    let counter = 0x0370_7344_1319_8a2e_85a3_08d3_243f_6a88;
    let pi = philox::philox4x32_10(key, counter);
    assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

#[test]
fn philox_masks_depend_on_seed_step_and_index() {
    let mask = |seed, step| {
        (0..64)
            .map(|i| philox::at(seed, step, i))
            .collect::<Vec<_>>()
    };
    assert_eq!(mask(1, 2)[4..8], philox::block(1, 2, 1));
    for (first, len) in [
        (0, 1),
        (0, 64),
        (1, 63),
        (5, 131),
        (u64::from(u32::MAX) - 1, 30),
    ] {
        let mut filled = vec![0.0; len];
        philox::fill(1, 1 << 40, first, &mut filled, |word| word as f32);
        for (i, word) in filled.into_iter().enumerate() {
            assert_eq!(word, philox::at(1, 1 << 40, 4 * first + i as u64) as f32);
        }
    }
    assert_ne!(mask(1, 2), mask(1, 3));
    assert_ne!(mask(1, 2), mask(2, 2));
    let kept = (0..10_000)
        .filter(|i| philox::at(5, 6, *i) >= 1 << 31)
        .count();
    assert!(
        (4800..5200).contains(&kept),
        "{kept} of 10000 above one half"
    );
}
