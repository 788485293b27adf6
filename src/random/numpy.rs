//! `numpy.random.RandomState`: MT19937 and numpy's legacy distributions.

use rand_mt::Mt;

/// `numpy.random.RandomState(seed)`.
#[derive(Clone)]
pub struct RandomState {
    mt: Mt,
    cached_normal: Option<f64>,
}

impl RandomState {
    pub fn new(seed: u32) -> RandomState {
        RandomState {
            mt: Mt::new(seed),
            cached_normal: None,
        }
    }

    /// One value of `rand()`: uniform in [0, 1) with 53 bits.
    pub fn rand(&mut self) -> f64 {
        let a = f64::from(self.mt.next_u32() >> 5);
        let b = f64::from(self.mt.next_u32() >> 6);
        (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
    }

    /// One value of `randn()`, by the polar method.
    pub fn randn(&mut self) -> f64 {
        if let Some(value) = self.cached_normal.take() {
            return value;
        }
        loop {
            let x1 = 2.0 * self.rand() - 1.0;
            let x2 = 2.0 * self.rand() - 1.0;
            let r2 = x1 * x1 + x2 * x2;
            if r2 < 1.0 && r2 != 0.0 {
                let f = (-2.0 * r2.ln() / r2).sqrt();
                self.cached_normal = Some(f * x1);
                return f * x2;
            }
        }
    }

    /// `rand(n)`.
    pub fn rand_vec(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.rand()).collect()
    }

    /// `randn(n)`.
    pub fn randn_vec(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.randn()).collect()
    }

    /// `permutation(n)`.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let n = u32::try_from(n).expect("indices are 32 bits wide");
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.below_or_equal(i);
            order.swap(i as usize, j as usize);
        }
        order
    }

    /// Uniform in 0..=max by rejection under the smallest mask that covers `max`.
    fn below_or_equal(&mut self, max: u32) -> u32 {
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.mt.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }
}
