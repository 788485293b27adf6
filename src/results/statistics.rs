//! Whether a difference between runs is more than chance: tests, intervals, steps to a target.
//!
//! Functions of plain numbers, one for each seed. docs/statistics.md says which to use when.

use statrs::function::beta::beta_reg;

use crate::random::numpy::RandomState;

/// The outcome of a two-sided t-test of mean(a) - mean(b).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TTest {
    /// mean(a) - mean(b).
    pub difference: f64,
    /// The difference in units of its standard error: NaN if there is neither, infinite if values do not vary.
    pub t: f64,
    /// Degrees of freedom.
    pub df: f64,
    /// How often chance alone makes a difference as large; NaN where t is.
    pub p: f64,
    /// Confidence interval of the difference.
    pub interval: [f64; 2],
}

/// Welch's t-test (Welch 1947): independent samples, whose variances may differ. None if a side has fewer than two
/// values.
///
/// t = (mean(a) - mean(b)) / sqrt(va/na + vb/nb), with Satterthwaite's degrees of freedom. `level` is that of the
/// interval, 0.95 say.
pub fn welch(a: &[f64], b: &[f64], level: f64) -> Option<TTest> {
    if a.len().min(b.len()) < 2 {
        return None;
    }
    let ((mean_a, a), (mean_b, b)) = (mean_and_error(a), mean_and_error(b));
    let square = a.square + b.square;
    let weights = a.square.powi(2) / a.df + b.square.powi(2) / b.df;
    // Values that do not vary say nothing of degrees of freedom; one is the least.
    let df = if square == 0.0 {
        1.0
    } else {
        square.powi(2) / weights
    };
    Some(t_test(mean_a - mean_b, SquaredError { square, df }, level))
}

/// The t-test of pairs: `a[i]` and `b[i]` belong together. None for fewer than two pairs.
///
/// t = mean(a - b) / (s / sqrt(n)) with n - 1 degrees of freedom.
///
/// # Panics
/// If there are not as many values on both sides.
pub fn paired(a: &[f64], b: &[f64], level: f64) -> Option<TTest> {
    assert_eq!(a.len(), b.len(), "pairs");
    if a.len() < 2 {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let (mean, error) = mean_and_error(&differences);
    Some(t_test(mean, error, level))
}

/// The confidence interval of a mean, mean ± t s / sqrt(n). None for fewer than two values.
pub fn mean_interval(values: &[f64], level: f64) -> Option<[f64; 2]> {
    (values.len() > 1).then(|| {
        let (mean, error) = mean_and_error(values);
        t_test(mean, error, level).interval
    })
}

/// Holm's correction (Holm 1979): p-values of several tests, such that the chance of any wrong discovery among all of them
/// stays below what each is compared with. A NaN is no test, and stays NaN.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut corrected = vec![f64::NAN; p.len()];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((order.len() - rank) as f64 * p[i]).min(1.0);
        corrected[i] = largest;
    }
    corrected
}

/// The squared standard error of a mean, or of a difference of means.
#[derive(Clone, Copy)]
struct SquaredError {
    square: f64,
    df: f64,
}

/// Sums of differences from the first value, so that equal values have exactly that mean and no variance.
fn mean_and_error(values: &[f64]) -> (f64, SquaredError) {
    let n = values.len() as f64;
    let shift = values.iter().map(|x| x - values[0]).sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - values[0] - shift).powi(2));
    let variance = squares.sum::<f64>() / (n - 1.0);
    let square = variance / n;
    let df = n - 1.0;
    (values[0] + shift, SquaredError { square, df })
}

fn t_test(difference: f64, error: SquaredError, level: f64) -> TTest {
    let (df, error) = (error.df, error.square.sqrt());
    let t = difference / error;
    let reach = if error == 0.0 {
        0.0
    } else {
        error * t_for(1.0 - level, df)
    };
    TTest {
        difference,
        t,
        df,
        p: beyond(t, df),
        interval: [difference - reach, difference + reach],
    }
}

/// The share of Student's distribution that is further from 0 than t is, on both sides.
fn beyond(t: f64, df: f64) -> f64 {
    if t.is_nan() || df.is_nan() {
        return f64::NAN;
    }
    beta_reg(df / 2.0, 0.5, df / (df + t * t))
}

/// The t > 0 beyond which the share p lies. By bisection: the inverse in `statrs` loses digits in the tails.
fn t_for(p: f64, df: f64) -> f64 {
    if df.is_nan() {
        return f64::NAN;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while high < f64::MAX / 2.0 && beyond(high, df) > p {
        (low, high) = (high, 2.0 * high);
    }
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if beyond(middle, df) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The seed of all resamples, so that an interval is the same whenever it is computed.
const BOOTSTRAP_SEED: u32 = 12_345_678;

/// Means of values drawn with replacement, as many as there are, again and again (Efron 1979).
pub fn bootstrap_means(values: &[f64], resamples: usize) -> Vec<f64> {
    means(&mut RandomState::new(BOOTSTRAP_SEED), values, resamples)
}

/// mean(a) - mean(b) of resamples, all those of a drawn before those of b.
pub fn bootstrap_differences(a: &[f64], b: &[f64], resamples: usize) -> Vec<f64> {
    let mut random = RandomState::new(BOOTSTRAP_SEED);
    let a = means(&mut random, a, resamples);
    let b = means(&mut random, b, resamples);
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn means(random: &mut RandomState, values: &[f64], resamples: usize) -> Vec<f64> {
    let n = values.len() as f64;
    let mut draw = |_| values[(n * random.rand()) as usize];
    let mut mean = |_| (0..values.len()).map(&mut draw).sum::<f64>() / n;
    (0..resamples).map(&mut mean).collect()
}

/// The middle `level` of what resamples gave, interpolated between neighbours. NaN if one of them is.
pub fn percentile_interval(resamples: &[f64], level: f64) -> [f64; 2] {
    let mut sorted = resamples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let outside = (1.0 - level) / 2.0;
    [outside, 1.0 - outside].map(|q| quantile(&sorted, q))
}

/// Of ascending values, interpolated linearly.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() || sorted.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
}

/// The median; the mean of the middle two of an even number. Infinite values count as what they are.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// How many standard errors a mean must be past the target to count: chance alone gets there once in a thousand times.
pub const Z: f64 = 3.09;

/// How far a mean of n runs is past the target, times sqrt(n): significant if it is at least z standard deviations of
/// one run. For losses `gap` is target - mean, for accuracies mean - target.
pub fn past_target(gap: f64, n: usize) -> f64 {
    gap * (n as f64).sqrt()
}

/// Where along a curve a target was reached, as places in the curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The mean is at the target.
    pub first: Option<usize>,
    /// It is far enough past it, given the number of runs.
    pub significant: Option<usize>,
}

/// The first places where the mean of n runs is at the target and where it is significantly past it, at `z` times `sigma`,
/// the standard deviation of one run. This is how the records of modded-nanogpt's third track are judged.
pub fn reached(gaps: &[f64], n: usize, sigma: f64, z: f64) -> Reached {
    Reached {
        first: gaps.iter().position(|&gap| gap >= 0.0),
        significant: gaps
            .iter()
            .position(|&gap| gap >= 0.0 && past_target(gap, n) >= z * sigma),
    }
}

/// Whether one method is ahead of another that ended with another loss after another number of steps, by the rule of
/// modded-nanogpt's third track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lead {
    /// The other's loss less its own.
    pub loss: f64,
    /// The other's steps less its own.
    pub steps: f64,
    /// How much the loss falls in a hundred steps there.
    pub loss_per_100_steps: f64,
    /// Runs of both.
    pub runs: [usize; 2],
}

impl Lead {
    /// Both as a loss, in units of 1/sqrt(1/n1 + 1/n2): significant if it is at least [`Z`] standard deviations of one run.
    pub fn statistic(&self) -> f64 {
        let [a, b] = self.runs.map(|n| 1.0 / n as f64);
        (self.loss + self.steps / 100.0 * self.loss_per_100_steps) / (a + b).sqrt()
    }
}
