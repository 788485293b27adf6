//! The generator behind torch's CPU tensors: MT19937 and the transformations torch puts on top of it.

use rand_mt::Mt;
use std::f32::consts::TAU as TAU_F32;
use std::f64::consts::TAU;

/// torch fills in groups of this many values where a normal sample has at least this many.
const GROUP: usize = 16;

/// `torch.Generator()` on the CPU.
#[derive(Clone)]
pub struct Generator {
    mt: Mt,
    /// The second value of the last pair drawn by [`Generator::normal`] on fewer than 16 values.
    cached_normal: Option<f64>,
    /// Numbers of 32 bits that were drawn.
    drawn: u64,
}

impl Generator {
    /// `manual_seed(seed)`: only the low 32 bits count.
    pub fn new(seed: u64) -> Generator {
        Generator {
            mt: Mt::new(seed as u32),
            cached_normal: None,
            drawn: 0,
        }
    }

    pub fn u32(&mut self) -> u32 {
        self.drawn += 1;
        self.mt.next_u32()
    }

    /// Numbers of 32 bits that were drawn since the seed, of which all others are made.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Draws until this many are drawn. Right where [`Generator::normal`] was not asked in between.
    pub fn skip_to(&mut self, drawn: u64) {
        while self.drawn < drawn {
            self.u32();
        }
    }

    /// Two draws, the first being the high half.
    pub fn u64(&mut self) -> u64 {
        let high = u64::from(self.u32());
        high << 32 | u64::from(self.u32())
    }

    /// `random_()` on a 64-bit integer tensor of one element: uniform in 0..2^63.
    pub fn random64(&mut self) -> i64 {
        (self.u64() & i64::MAX as u64) as i64
    }

    /// `randint(0, k)`, one value. Biased for large `k`, as torch's.
    pub fn randint(&mut self, k: u64) -> u64 {
        assert!(k > 0, "randint needs a range that is not empty");
        if k < 1 << 28 {
            u64::from(self.u32()) % k
        } else {
            self.u64() % k
        }
    }

    /// `rand(1)` in float32: a multiple of 2^-24 in [0, 1).
    pub fn rand1(&mut self) -> f32 {
        (self.u32() & 0xff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// `out.uniform_(lo, hi)`, bit-exact.
    pub fn uniform(&mut self, out: &mut [f32], lo: f32, hi: f32) {
        for value in out {
            *value = self.rand1().mul_add(hi - lo, lo);
        }
    }

    /// `out.normal_(mean, std)`; logarithm, sine and cosine may differ from torch's in the last places.
    pub fn normal(&mut self, out: &mut [f32], mean: f32, std: f32) {
        if out.len() < GROUP {
            for value in out {
                *value = (self.normal_f64() * f64::from(std) + f64::from(mean)) as f32;
            }
            return;
        }
        self.uniform(out, 0.0, 1.0);
        let (groups, rest) = out.as_chunks_mut::<GROUP>();
        for group in groups {
            box_muller(group, mean, std);
        }
        if !rest.is_empty() {
            // torch draws the last 16 values again rather than transforming an incomplete group.
            let last = out.last_chunk_mut::<GROUP>().expect("16 values or more");
            self.uniform(last, 0.0, 1.0);
            box_muller(last, mean, std);
        }
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(value) = self.cached_normal.take() {
            return value;
        }
        let angle = TAU * self.rand_f64();
        let radius = (-2.0 * (-self.rand_f64()).ln_1p()).sqrt();
        self.cached_normal = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn rand_f64(&mut self) -> f64 {
        (self.u64() & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// `randperm(n)`.
    pub fn randperm(&mut self, n: usize) -> Vec<u32> {
        let mut order = vec![0; n];
        self.randperm_into(&mut order);
        order
    }

    /// `randperm(order.len())` without an allocation.
    pub fn randperm_into(&mut self, order: &mut [u32]) {
        let n = u32::try_from(order.len()).expect("indices are 32 bits wide");
        for (i, value) in (0..n).zip(order.iter_mut()) {
            *value = i;
        }
        for i in 0..n.saturating_sub(1) {
            let other = i + self.u32() % (n - i);
            order.swap(i as usize, other as usize);
        }
    }
}

/// Sixteen uniforms to sixteen normals in place; values i and i + 8 make a pair.
fn box_muller(group: &mut [f32; GROUP], mean: f32, std: f32) {
    let (first, second) = group.split_at_mut(GROUP / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let (sin, cos) = (TAU_F32 * *b).sin_cos();
        *a = (radius * cos).mul_add(std, mean);
        *b = (radius * sin).mul_add(std, mean);
    }
}
