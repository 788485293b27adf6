//! The shard reader on any bytes: it refuses or accepts, but never panics, and what it accepts lies inside the
//! file. A second reading with all checksums made right lets the fuzzer past them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native::data::shard::{BLOCK, HEADER, MAGIC, VERSION, parse};

fn check(bytes: &[u8]) {
    if let Ok((header, layout)) = parse(bytes) {
        assert!(header.samples > 0);
        assert!(layout.features.end <= layout.rows.start);
        assert!(layout.rows.end <= layout.targets.start);
        assert!(layout.targets.end <= layout.table.start);
        assert_eq!(layout.table.end, bytes.len());
    }
}

/// Magic number, version and header checksum; then the table, for the number of blocks that the length allows.
fn reseal(bytes: &mut [u8]) {
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let header = crc32c::crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&header.to_le_bytes());
    let Some(rest) = (bytes.len() - HEADER).checked_sub(4) else {
        return;
    };
    let blocks = rest.div_ceil(BLOCK + 4);
    let table = bytes.len() - 4 - 4 * blocks;
    if table < HEADER {
        return;
    }
    let (body, sums) = bytes[HEADER..].split_at_mut(table - HEADER);
    let end = sums.len() - 4;
    for (block, sum) in body.chunks(BLOCK).zip(sums[..end].chunks_mut(4)) {
        sum.copy_from_slice(&crc32c::crc32c(block).to_le_bytes());
    }
    let all = crc32c::crc32c(&sums[..end]);
    sums[end..].copy_from_slice(&all.to_le_bytes());
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if bytes.len() >= HEADER {
        let mut sealed = bytes.to_vec();
        reseal(&mut sealed);
        check(&sealed);
    }
});
