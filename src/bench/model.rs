//! How long launches take on a GPU, by a model: bytes over bandwidths, instructions over issue rates, and a price for every
//! launch. **It was not fitted to a GPU**, of which none has been seen; it ranks changes, within a third perhaps. What a GPU
//! can do is documented, or measured by `bench-kernels` ([`Gpu::measured`]); shares of it are the model's.
//!
//! A kernel takes the longest of three times: what it names, at the rate of DRAM; what its blocks load, at that of L2; and,
//! where it multiplies matrices, its instructions and its HMMAs on the multiprocessors that have blocks. Instruction
//! counts were read in the machine code of nvcc 13.0 for sm_90a.

use serde_json::Value;

use super::machine::{COPY, FLUSH, L2, LAUNCH, peak_name};
use crate::device::gpu::kernels::{
    AttentionSizes, Both, CausalSizes, Conv, DropoutMask, LayerSizes,
};
use crate::device::gpu::{Launch, PROCESSORS, Precision};

/// What the model knows of a GPU. Rates are those of long streams, in MB per microsecond.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    pub name: String,
    dram: f64,
    l2: f64,
    /// Cycles per microsecond.
    clock: f64,
    /// Multiply-adds times two of `mma.sync` in TF32, in millions per microsecond.
    tensor: f64,
    /// Microseconds of a launch behind another one in a graph.
    launch: f64,
}

/// Flops of a cycle of all multiprocessors: 128 fused multiply-adds on each.
const FP32: f64 = 256.0 * PROCESSORS as f64;
/// Flops of an HMMA of 16x8x8 numbers in TF32 on every scheduler.
const HMMAS: f64 = 4.0 * 2048.0 * PROCESSORS as f64;
/// `tensor` where such an HMMA takes 6.4 cycles of a documented clock.
const CLOCK: f64 = 1850.0;
const TENSOR: f64 = HMMAS / 6.4 * CLOCK / 1e6;
/// Microseconds until the first loads arrive.
const LATENCY: f64 = 1.0;
/// The same until a batch is gathered by four loads, each of which waits for the one before: the steps taken, the sample, its number
/// as a byte and by a table.
const GATHER: f64 = 2.0;

impl Gpu {
    /// By their documentation, and what others have reported of them.
    pub fn documented() -> Vec<Gpu> {
        let gpu = |name: &str, dram| Gpu {
            name: name.to_owned(),
            dram,
            l2: 5.0,
            clock: CLOCK,
            tensor: TENSOR,
            launch: 1.75,
        };
        vec![gpu("H200", 3.7), gpu("H100", 2.7)]
    }

    /// The GPU of a report of `bench-kernels`, by what that measured of the machine itself.
    ///
    /// # Errors
    /// If it is no such report; why.
    pub fn measured(report: &Value) -> Result<Gpu, String> {
        let peaks = report["peaks"].as_array();
        let peaks = peaks.ok_or("not a report of bench-kernels, which `--json` writes")?;
        let Some(name) = report["gpu"].as_str() else {
            let device = report["device"].as_str().unwrap_or("another device");
            return Err(format!(
                "measured on {device}, not on a GPU (--device cuda)"
            ));
        };
        // The best rate of all lines of a name: `of` it, in millions per microsecond.
        let rate = |name: &str, of: &str| {
            let lines = peaks.iter().filter(|line| line["name"] == name);
            let rates = lines
                .filter_map(|line| Some(line[of].as_f64()? / line["seconds"].as_f64()? / 1e12));
            let best = rates
                .filter(|rate| rate.is_finite() && *rate > 0.0)
                .reduce(f64::max);
            best.ok_or(format!("{name} was not measured"))
        };
        let dram = rate(COPY, "bytes")?;
        let bytes = peaks.iter().filter_map(|line| line["bytes"].as_f64());
        if bytes.fold(0.0, f64::max) < 8.0 * FLUSH as f64 {
            return Err("measured at small shapes: leave out --small".to_owned());
        }
        let of_launch = peaks.iter().find(|line| line["name"] == LAUNCH);
        let launch = of_launch
            .and_then(|line| line["seconds"].as_f64())
            .filter(|s| *s > 0.0);
        Ok(Gpu {
            name: name.to_owned(),
            dram,
            l2: rate(L2, "bytes")?,
            clock: rate(peak_name(Precision::Fp32), "flops")? / FP32 * 1e6,
            tensor: rate(peak_name(Precision::Tf32), "flops")?,
            launch: launch.ok_or(format!("{LAUNCH} was not measured"))? * 1e6,
        })
    }

    /// Cycles that a scheduler's tensor core takes for an HMMA among other instructions.
    fn hmma(&self) -> f64 {
        1.15 * HMMAS * self.clock / self.tensor / 1e6
    }

    /// A rate of products, in millions of flops per microsecond, that is that of a documented GPU.
    fn products(&self, documented: f64) -> f64 {
        documented * self.tensor / TENSOR
    }

    /// Microseconds of a launch and the wait for it.
    pub fn time(&self, launch: &Launch) -> f64 {
        self.launch + self.kernel(launch)
    }

    fn kernel(&self, launch: &Launch) -> f64 {
        let [read, written] = traffic(launch).map(|bytes| bytes as f64 / 1e6);
        let streamed = (read + written) / self.dram;
        let name = &*launch.kernel.name;
        let int = |key: &str| launch.value::<i32>(key).map_or(0.0, f64::from);
        match name {
            _ if name.starts_with("conv2d") => self.conv(launch, [read, written]),
            _ if name.starts_with("attention") => self.attention(launch).max(streamed),
            _ if name.starts_with("causal_attention") => {
                self.causal_attention(launch).max(streamed)
            }
            _ if name.starts_with("product") && name != "product_sum" => {
                let flops = 2.0 * int("m") * int("k") * int("n");
                let steps = self.steps(launch, blocks(launch));
                let rows = self.rows(launch, [int("m"), int("n")], int("then"));
                (self.product(launch, flops, int("k")) + steps).max(streamed) + rows
            }
            _ if name.starts_with("linear_bwd") => {
                let (rows, inputs, outputs) = (int("rows"), int("inputs"), int("outputs"));
                let flops = 4.0 * rows * inputs * outputs;
                let steps = self.steps(launch, int("dx_tiles"));
                (self.product(launch, flops, outputs.max(rows)) + steps).max(streamed)
            }
            "layers" => self.layers(launch).max(streamed),
            _ if name.starts_with("gather") => GATHER + written / 2.0,
            "column_sums" => self.column_sums(launch, int("rows")).max(streamed),
            // Targets are counted, then each row's numbers read, then the blocks' losses.
            "cross_entropy" => streamed + 3.0 * LATENCY,
            "batch_norm_sums" | "batch_norm_bwd_sums" => {
                let [rows, ..] = launch.grid.blocks;
                streamed / 0.8 + self.adding_up(rows, 16.0 * int("channels"))
            }
            "dropout" => streamed / 0.8,
            _ => streamed,
        }
    }

    /// Each warp adds up rows with four loads in flight.
    fn column_sums(&self, launch: &Launch, rows: f64) -> f64 {
        const RESIDENT: f64 = 8.0;
        let life = 1100.0 + ((rows / 8.0).ceil() / 4.0).ceil() * 900.0;
        waves(blocks(launch), RESIDENT) * life / self.clock
    }

    /// Sums over rows of this many bytes that as many blocks leave, each 32 by one block: `sum_over_blocks`.
    fn adding_up(&self, rows: u32, bytes: f64) -> f64 {
        // Bytes that a multiprocessor loads in a cycle; until a block has arrived and the first loads have.
        const LOADED: f64 = 64.0;
        let level = |rows: u32| match rows {
            0 | 1 => 0.0,
            _ => LATENCY + f64::from(rows) * bytes / LOADED / self.clock,
        };
        level(rows.min(32)) + level(rows.div_ceil(32))
    }

    fn conv(&self, launch: &Launch, [read, written]: [f64; 2]) -> f64 {
        let name = &*launch.kernel.name;
        let c: Conv = launch.value("c").expect("a convolution's shape");
        let tiles = launch.value::<i32>("tiles").map_or(1.0, f64::from);
        let works = match (launch.value::<Both>("grids"), name.rsplit_once('_')) {
            (Some(grids), Some((of_x, of_w))) => {
                let w_c: Conv = launch.value("w_c").expect("the shape for dw");
                let w_grid = [grids.w_across, grids.w_down, grids.w_deep].map(f64::from);
                let x_grid = [grids.x_across, grids.x_down, grids.x_deep].map(f64::from);
                let of_x = of_x.replace("bwd", "bwd_x");
                vec![
                    self.weight_gradient(Tile::of(&format!("bwd_w_{of_w}")), &w_c, w_grid, tiles),
                    self.convolution(Tile::of(&of_x), &c, x_grid, written),
                ]
            }
            _ => {
                let grid = launch.grid.blocks.map(f64::from);
                let tile = Tile::of(name);
                match name.contains("bwd_w") {
                    true => vec![self.weight_gradient(tile, &c, grid, tiles)],
                    false => vec![self.convolution(tile, &c, grid, written)],
                }
            }
        };
        let total = |of: fn(&Work) -> f64| works.iter().map(of).sum::<f64>();
        let most = |of: fn(&Work) -> f64| works.iter().map(of).fold(0.0, f64::max);
        let shared = f64::from(launch.grid.shared) + 1024.0;
        let registers = (most(|work| work.registers) / 8.0).ceil() * 8.0 * 128.0;
        let fit = (232_448.0 / shared)
            .floor()
            .min((65536.0 / registers).floor());
        let even = (total(|work| work.blocks) / PROCESSORS as f64).ceil();
        let resident = fit.min(16.0).min(even);
        // Blocks that the busiest multiprocessor works on, one warp of each for each scheduler: of one kind in waves, while
        // those of two kinds fill each other's last one.
        let of_one = |blocks: f64| match works.len() {
            1 => waves(blocks, resident) * resident,
            _ => waves(blocks, 1.0),
        };
        let of_all = |of: fn(&Work) -> f64| {
            let shares = works.iter().map(|work| of_one(work.blocks) * of(work));
            shares.sum::<f64>()
        };
        let issued = of_all(|work| work.instructions) / issue_rate(resident);
        let multiplied = of_all(|work| work.hmmas) * self.hmma();
        let busy = issued.max(multiplied) / self.clock;
        let loaded = total(|work| work.loaded);
        let streamed = read + written;
        let working = busy.max(loaded / self.l2).max(streamed / self.dram * 0.7);
        working + LATENCY + most(|work| work.adding_up)
    }

    fn weight_gradient(&self, tile: Tile, c: &Conv, grid: [f64; 3], tiles: f64) -> Work {
        let [outputs, inputs] = tile.sides;
        let [parts, ..] = grid;
        let blocks = grid.iter().product();
        let patch = f64::from((c.patch_h * c.patch_w) << c.log_images);
        let pixels = f64::from(1 << (c.log_tile_h + c.log_tile_w + c.log_images));
        // Warps that share the pixels of a tile, whose sums are added up in shared memory.
        let sharers = 4.0 / (inputs / 8.0);
        let rows = pixels / 8.0 / sharers;
        let columns = rows / f64::from(1 << c.log_tile_h);
        let few = c.aligned_in == 0 && c.in_c <= 8;
        let of_x = pieces(patch * if few { 8.0 } else { inputs }, c.aligned_in);
        let of_dy = pieces(pixels * outputs, c.aligned_w);
        let each = 215.0
            + brought(of_x)
            + finished(of_x, c.finish_in, false)
            + brought(of_dy)
            + finished(of_dy, c.finish_dy, true)
            + columns.ceil() * 70.0
            + rows * (tile.inner + if c.stride == 1 { 0.0 } else { 9.0 });
        let of_block = (tiles / parts).ceil();
        let sums = outputs * inputs * 9.0;
        let held = outputs / 16.0 * 36.0;
        let stored = parts * f64::from(c.out_c * c.in_c) * 36.0 / 1e6;
        let others = f64::from(c.finish_dy);
        let tile_bytes = (patch * inputs + pixels * outputs * (1.0 + others)) * 4.0;
        Work {
            blocks,
            registers: tile.registers,
            instructions: 280.0 + each * of_block + held * 4.0 + sums / 128.0 * 3.0,
            hmmas: rows * tile.hmmas * of_block,
            loaded: blocks * of_block * tile_bytes / 1e6 + stored,
            adding_up: self.adding_up(parts as u32, sums * 4.0),
        }
    }

    /// Forward, or on the way to dx.
    fn convolution(&self, tile: Tile, c: &Conv, grid: [f64; 3], written: f64) -> Work {
        let [rows, columns] = tile.sides;
        let [tiles, _, classes] = grid;
        let blocks: f64 = grid.iter().product();
        let patch = f64::from((c.patch_h * c.patch_w) << c.log_images);
        let chunk = if columns == 64.0 { 8.0 } else { 16.0 };
        let chunks = (f64::from(c.in_c) / chunk).ceil();
        let few = chunk == 16.0 && c.in_c <= 8;
        let half = if few { 0.5 } else { 1.0 };
        let taps = if classes == 1.0 { 9.0 } else { 2.25 };
        let of_patch = match c.aligned_in {
            1 => pieces(patch * chunk, 1),
            _ => pieces(patch * chunk * half, 0),
        };
        let of_weights = pieces(chunk * columns * 9.0, c.aligned_w);
        let each = brought(of_patch)
            + finished(of_patch, c.finish_in, tile.back)
            + 20.0
            + of_weights * 17.0
            + taps * tile.inner * if few { 0.65 } else { 1.0 }
            + 45.0;
        let entries = rows * columns / 128.0;
        let adds = if c.adds == 1 { 4.0 * entries } else { 0.0 };
        let sums = match (c.counted, tile.back) {
            (0, _) => 0.0,
            (_, false) => 125.0 + 4.0 * entries,
            (_, true) => 185.0 + 11.0 * entries,
        };
        let places = (patch / 128.0).ceil() * 25.0;
        let others = f64::from(tile.back && c.finish_in == 1);
        let of_chunk = patch * chunk * 4.0 * (1.0 + others) + chunk * columns * 36.0;
        let rows = if c.counted == 1 { tiles as u32 } else { 0 };
        Work {
            blocks,
            registers: tile.registers,
            instructions: 300.0 + places + each * chunks + 110.0 + 7.0 * entries + adds + sums,
            hmmas: taps * tile.hmmas * chunks * half,
            loaded: blocks * chunks * of_chunk / 1e6 + written,
            adding_up: self.adding_up(rows, columns * 16.0),
        }
    }

    /// Tiles of 64 by 32 scores up to the diagonal, one for four warps.
    fn causal_attention(&self, launch: &Launch) -> f64 {
        let Some(s) = launch.value::<CausalSizes>("s") else {
            return 0.0;
        };
        let [sequences, heads, tokens, dim] =
            [s.sequences, s.heads, s.tokens, s.dim].map(f64::from);
        let rows = (tokens / 64.0).ceil();
        let tiles = sequences * heads * rows * (rows + 1.0);
        let name = &*launch.kernel.name;
        // How often each tile is computed, and products of its sizes in all.
        let (times, products) = match (name.contains("fwd"), name.contains("_64_")) {
            (true, _) => (1.0, 2.0),
            (false, true) => (2.0, 7.0),
            (false, false) => (3.0, 8.0),
        };
        let (terms, each) = if name.ends_with("tf32") {
            (1.0, 5.0)
        } else {
            (3.0, 6.3)
        };
        // Of a warp: a product's HMMAs; its share of two operands that are loaded, one of which is turned; the exponentials.
        let hmmas = products * dim / 2.0 * terms;
        let turning = if s.base > 0.0 { 55.0 } else { 0.0 };
        let instructions = hmmas * each + times * (dim / 16.0 * (60.0 + turning) + 320.0);
        let cycles = (instructions / issue_rate(3.0)).max(hmmas * self.hmma());
        tiles * cycles / PROCESSORS as f64 / self.clock + LATENCY
    }

    /// Tiles of parts of the first layer, then some rows of all others, then tiles of the weights' gradients, on as many
    /// multiprocessors as each has blocks for.
    fn layers(&self, launch: &Launch) -> f64 {
        let Some(s) = launch.value::<LayerSizes>("s") else {
            return 0.0;
        };
        let [rows, inputs, group] = [s.rows, s.inputs, s.group].map(f64::from);
        let [parts, part] = [s.parts, s.part].map(f64::from);
        let outputs = [s.outputs0, s.outputs1, s.outputs2, s.outputs3].map(f64::from);
        let widths: Vec<f64> = [inputs].into_iter().chain(outputs).collect();
        let widths = &widths[..=s.count as usize];
        // Each thread has an entry of a product. Shared memory answers one warp in a cycle: with a weight of each of its entries, or
        // with four numbers that are those of all. Sixteen terms are under way at once, so that a thread waits for four cycles.
        let product = |terms: f64, entries: f64| {
            let warps = (group * entries / 32.0).ceil();
            (warps / 8.0).ceil() * terms * (1.25 * warps.min(8.0)).max(4.0) / self.clock
        };
        let of_rows = widths[1..].windows(2);
        let of_rows = of_rows.map(|pair| product(pair[0], pair[1]) + product(pair[1], pair[0]));
        let tiles =
            |size: f64, rows: f64, columns: f64| (rows / size).ceil() * (columns / size).ceil();
        let gradients = widths
            .windows(2)
            .map(|pair| tiles(32.0, pair[1], pair[0]) + pair[1] / 32.0);
        // Blocks see what others have written; those of rows then load it.
        let waits = 3.0 * LATENCY;
        let first = parts * tiles(16.0, rows, outputs[0]);
        let first = small_product(128.0 * part, 0.45, first);
        let last = small_product(rows, 1.2, gradients.sum());
        // Of what a gather waits for, the bytes are this product's own first loads, and the table has come by then.
        let gathered = match launch.value::<i32>("channels") {
            Some(0) | None => 0.0,
            Some(_) => GATHER * 2.0 / 4.0,
        };
        // What an update reads comes from L2 when the gradient is stored.
        let adam = launch.value::<i32>("adam");
        let update = f64::from(adam.unwrap_or(0)) * LATENCY;
        gathered + first + of_rows.sum::<f64>() + last + waits + update
    }

    /// Products of matrices: large tiles at a rate, small ones slice by slice of the dimension that is summed over.
    fn product(&self, launch: &Launch, flops: f64, summed: f64) -> f64 {
        let (name, blocks) = (&launch.kernel.name, blocks(launch));
        if name.ends_with("_128") || name.ends_with("_64") {
            // MFLOP per microsecond.
            let full = match launch.value::<i32>("tf32") {
                Some(1) => 175.0,
                _ => 57.0,
            };
            let share = if blocks < 200.0 {
                (blocks / 264.0).max(0.25)
            } else {
                1.0
            };
            return flops / 1e6 / (self.products(full) * share);
        }
        let slice = if name.starts_with("linear_bwd") {
            1.2
        } else {
            0.45
        };
        small_product(summed, slice, blocks)
    }

    /// What blocks do with every number of this many tiles, once they are stored.
    fn steps(&self, launch: &Launch, tiles: f64) -> f64 {
        const DROPOUT: f64 = 90.0;
        let int = |key: &str| launch.value::<i32>(key).unwrap_or(0);
        let back = launch.kernel.name.starts_with("linear_bwd");
        // Instructions for four numbers, by the activation's number in `kernels/activation.cuh`.
        let of_activation = match (int("activation"), back) {
            (0, _) => 0.0,
            (1, false) => 92.0,
            (1, true) => 122.0,
            (2, false) => 10.0,
            (2, true) => 17.0,
            (_, false) => 109.0,
            (_, true) => 160.0,
        };
        let drops = launch.value::<DropoutMask>("mask");
        let of_dropout = drops.map_or(0.0, |mask| DROPOUT * f64::from(mask.drops));
        let of_sum = if int("added") == 2 { 5.0 } else { 0.0 };
        let all = of_activation + of_dropout + of_sum;
        if all == 0.0 {
            return 0.0;
        }
        let Blocks {
            tile,
            warps,
            resident,
        } = Blocks::of(launch);
        let instructions = (15.0 + all) * tile * tile / 4.0 / (32.0 * warps);
        let on_scheduler = (tiles / PROCESSORS as f64).ceil().min(resident) * warps / 4.0;
        let turns = waves(tiles, resident) * on_scheduler;
        turns * instructions / issue_rate(on_scheduler) / self.clock
    }

    /// What the last block of every row of tiles of C (m, n) does with its rows: a norm, or cross entropy.
    fn rows(&self, launch: &Launch, [m, n]: [f64; 2], then: f64) -> f64 {
        // Instructions for four numbers of a row that threads hold.
        const NORM: f64 = 40.0;
        let blocks = Blocks::of(launch);
        let numbers = blocks.tile.min(m) * n;
        let instructions = NORM * numbers / 4.0 / (32.0 * blocks.warps) * blocks.warps / 4.0;
        let turns = (m / blocks.tile / (PROCESSORS as f64 * blocks.resident)).max(1.0);
        match then as i32 {
            0 => 0.0,
            1 | 2 => LATENCY + turns * instructions / issue_rate(blocks.warps / 4.0) / self.clock,
            // Of few rows.
            _ => LATENCY,
        }
    }

    /// At rates of the products inside: two forward, five backward.
    fn attention(&self, launch: &Launch) -> f64 {
        let Some(s) = launch.value::<AttentionSizes>("s") else {
            return 0.0;
        };
        let [sequences, heads, tokens, dim] =
            [s.sequences, s.heads, s.tokens, s.dim].map(f64::from);
        let product = 2.0 * sequences * heads * tokens * tokens * dim / 1e6;
        let name = &*launch.kernel.name;
        let (times, rate) = match (name.contains("fwd"), name.ends_with("tf32")) {
            (true, true) => (2.0, 21.0),
            (true, false) => (2.0, 15.0),
            (false, true) => (5.0, 19.7),
            (false, false) => (5.0, 13.8),
        };
        times * product / self.products(rate)
    }
}

/// Bytes that a launch names to read and to write. What gathers a batch reads of the data set what it writes.
pub fn traffic(launch: &Launch) -> [usize; 2] {
    let [read, written] = launch.traffic();
    match &*launch.kernel.name {
        name if name.starts_with("gather") => [written, written],
        "layers" => {
            let bytes = |name: &&str| launch.bytes_of(name);
            let data_set = ["data", "table", "targets", "order", "steps"].iter();
            let batch = ["gathered_x", "gathered_target"].iter();
            let read = read - data_set.map(bytes).sum::<usize>();
            [read + batch.map(bytes).sum::<usize>(), written]
        }
        _ => [read, written],
    }
}

/// Products of small tiles by this many blocks, two to a multiprocessor; `slice` for 128 terms of a sum.
fn small_product(summed: f64, slice: f64, blocks: f64) -> f64 {
    1.8 + (summed / 128.0).ceil() * slice * (blocks / 264.0).max(1.0)
}

fn blocks(launch: &Launch) -> f64 {
    launch.grid.blocks.map(f64::from).iter().product()
}

/// How often all multiprocessors are filled with this many blocks each.
fn waves(blocks: f64, resident: f64) -> f64 {
    let waves = blocks / (PROCESSORS as f64 * resident);
    if waves < 4.0 { waves.ceil() } else { waves }
}

/// Instructions per cycle of a scheduler with this many warps.
fn issue_rate(warps: f64) -> f64 {
    match warps as usize {
        0 | 1 => 0.30,
        2 => 0.45,
        3 => 0.55,
        4 => 0.60,
        5..8 => 0.65,
        _ => 0.72,
    }
}

/// Pieces of four channels, or of one, that one of a block's 128 threads has of this many numbers.
fn pieces(numbers: f64, aligned: i32) -> f64 {
    (numbers / if aligned == 1 { 4.0 } else { 1.0 } / 128.0).ceil()
}

/// Instructions that bring this many pieces, four at a time.
fn brought(pieces: f64) -> f64 {
    25.0 + (pieces / 4.0).floor() * 28.0 + pieces % 4.0 * 14.0
}

/// Those that round them, or finish them as well, perhaps by another tensor.
fn finished(pieces: f64, finish: i32, others: bool) -> f64 {
    match (finish, others) {
        (0, _) => 25.0 + 13.0 * pieces,
        (_, false) => 30.0 + 27.0 * pieces,
        (_, true) => 40.0 + 33.0 * pieces,
    }
}

/// Blocks of a product.
struct Blocks {
    tile: f64,
    warps: f64,
    /// On a multiprocessor at a time.
    resident: f64,
}

impl Blocks {
    fn of(launch: &Launch) -> Blocks {
        let tile = launch.kernel.name.rsplit('_').next();
        let tile: f64 = tile.and_then(|tile| tile.parse().ok()).unwrap_or(64.0);
        let fit = 232_448.0 / (f64::from(launch.grid.shared) + 1024.0);
        Blocks {
            tile,
            warps: f64::from(launch.kernel.threads) / 32.0,
            resident: fit.floor(),
        }
    }
}

/// What blocks of a convolution do that all do the same.
struct Work {
    blocks: f64,
    registers: f64,
    /// Of a block's warp.
    instructions: f64,
    hmmas: f64,
    /// MB from L2, and those written.
    loaded: f64,
    /// Microseconds to add up what blocks leave.
    adding_up: f64,
}

/// What a block of a convolution computes, and the inner loop that does it.
struct Tile {
    back: bool,
    /// Pixels and channels, or output and input channels of a weight gradient.
    sides: [f64; 2],
    registers: f64,
    /// Instructions of a tap, or of eight pixels of a weight gradient, and the HMMAs among them.
    inner: f64,
    hmmas: f64,
}

impl Tile {
    fn of(kernel: &str) -> Tile {
        let back = kernel.contains("bwd_x");
        let tile = |a: u32, b: u32, registers, inner, hmmas| Tile {
            back,
            sides: [a.into(), b.into()],
            registers,
            inner,
            hmmas,
        };
        match kernel.rsplit('_').next() {
            Some("128x16") if back => tile(128, 16, 72.0, 31.0, 8.0),
            Some("128x16") => tile(128, 16, 64.0, 27.0, 8.0),
            Some("128x32") if back => tile(128, 32, 79.0, 49.0, 16.0),
            Some("128x32") => tile(128, 32, 72.0, 43.0, 16.0),
            Some("128x64") if back => tile(128, 64, 128.0, 39.0, 16.0),
            Some("128x64") => tile(128, 64, 147.0, 33.0, 16.0),
            Some("16x16") => tile(16, 16, 120.0, 35.0, 9.0),
            Some("32x32") => tile(32, 32, 154.0, 49.0, 18.0),
            Some("64x32") if kernel.contains("bwd_w") => tile(64, 32, 234.0, 75.0, 36.0),
            _ if back => tile(64, 32, 64.0, 31.0, 8.0),
            _ => tile(64, 32, 56.0, 27.0, 8.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a GPU would have measured that is just as the model believes.
    fn report() -> Value {
        let line = |name, bytes: f64, flops: f64, microseconds: f64| json!({"name": name, "bytes": bytes, "flops": flops, "seconds": microseconds / 1e6});
        let copied = 8.0 * FLUSH as f64;
        json!({"device": "cuda", "gpu": "H200", "peaks": [
            line("copy", copied, 0.0, copied / 3.7e6),
            line("l2", 8e6, 0.0, 2.0),
            line("l2", 16e6, 0.0, 3.2),
            line("launch", 32.0, 0.0, 1.75),
            line("peak_fp32", 1e6, FP32 * CLOCK, 1.0),
            line("peak_tf32", 1e6, 3.0 * TENSOR * 1e6, 3.0),
        ]})
    }

    #[test]
    fn a_gpu_is_what_was_measured_of_it() {
        let close = |x: f64, y: f64| (x / y - 1.0).abs() < 1e-12;
        let (ours, documented) = (Gpu::measured(&report()).unwrap(), &Gpu::documented()[0]);
        assert_eq!(ours.name, documented.name);
        let numbers = |gpu: &Gpu| {
            [
                gpu.dram,
                gpu.l2,
                gpu.clock,
                gpu.tensor,
                gpu.launch,
                gpu.hmma(),
            ]
        };
        for (x, y) in numbers(&ours).into_iter().zip(numbers(documented)) {
            assert!(close(x, y), "{ours:?} {documented:?}");
        }
        assert!(close(ours.hmma(), 1.15 * 6.4) && close(ours.products(57.0), 57.0));
        // Twice as slow.
        let mut slow = report();
        for line in slow["peaks"].as_array_mut().unwrap() {
            line["seconds"] = json!(2.0 * line["seconds"].as_f64().unwrap());
        }
        let slow = Gpu::measured(&slow).unwrap();
        let halves = [0.5, 0.5, 0.5, 0.5, 2.0, 1.0];
        for ((x, y), half) in numbers(&slow).into_iter().zip(numbers(&ours)).zip(halves) {
            assert!(close(x, y * half), "{slow:?}");
        }
        assert!(close(slow.products(57.0), 57.0 / 2.0));
    }

    #[test]
    fn other_reports_say_why_they_do_not_do() {
        let says = |report: Value, what: &str| {
            let why = Gpu::measured(&report).unwrap_err();
            assert!(why.contains(what), "{why}");
        };
        says(json!([1]), "not a report");
        says(json!({"peaks": 3}), "not a report");
        let mut cpu = report();
        (cpu["gpu"], cpu["device"]) = (Value::Null, json!("cpu"));
        says(cpu, "on cpu");
        let mut small = report();
        small["peaks"][0]["bytes"] = json!(24008);
        says(small, "--small");
        for (i, name) in [
            (0, "copy"),
            (3, "launch"),
            (4, "peak_fp32"),
            (5, "peak_tf32"),
        ] {
            for nothing in [Value::Null, json!(0.0)] {
                let mut cut = report();
                cut["peaks"][i]["seconds"] = nothing;
                says(cut, &format!("{name} was not measured"));
            }
        }
    }
}
