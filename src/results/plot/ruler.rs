//! The scale of an axis: from where to where it goes, and what is written beside it.

use super::chart::{Axis, Scale};

/// Where values lie on an axis: at themselves, or at their decimal logarithm.
#[derive(Clone, Debug)]
pub struct Ruler {
    scale: Scale,
    low: f64,
    high: f64,
    /// On a log axis, the place of all that is not above zero.
    zero: Option<f64>,
    pub ticks: Vec<Tick>,
    /// Places of lines without a label.
    pub minor: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub place: f64,
    pub label: String,
}

fn tick(place: f64, label: impl Into<String>) -> Tick {
    let label = label.into();
    Tick { place, label }
}

impl Ruler {
    /// A ruler for values, with little room around them. `fits` says whether there is space between the labels of
    /// neighbouring ticks whose places are this part of the axis apart.
    pub fn new(
        values: &[f64],
        axis: &Axis,
        room: f64,
        fits: &dyn Fn(&Tick, &Tick, f64) -> bool,
    ) -> Ruler {
        let log = axis.scale == Scale::Log;
        // Room around the largest must not overflow.
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let finite = finite.map(|v| v.clamp(-1e300, 1e300));
        let under: Vec<f64> = finite.clone().filter(|v| log && *v <= 0.0).collect();
        let place = |v: f64| if log { v.log10() } else { v };
        let placed = finite.filter(|v| !log || *v > 0.0).map(place);
        let (mut low, mut high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        let limits = axis.limits.map(|limit| limit.map(place));
        // What is beyond a limit asks for no room.
        low = limits[0].unwrap_or(low);
        high = limits[1].unwrap_or(high);
        let empty = low > high;
        if empty {
            (low, high) = (0.0, 1.0);
        }
        let pad = match (high > low, axis.scale) {
            (true, _) => (high - low) * room,
            (false, Scale::Linear) if low != 0.0 => (0.1 * low.abs()).max(f64::MIN_POSITIVE),
            (false, _) => 0.5,
        };
        let gap = if high > low { 0.12 * (high - low) } else { 1.0 };
        let zero = (!under.is_empty() && limits[0].is_none()).then_some(low - gap);
        let lowest_tick = limits[0].unwrap_or(if zero.is_some() { low } else { low - pad });
        low = limits[0].unwrap_or(zero.unwrap_or(low) - pad);
        high = limits[1].unwrap_or(high + pad);
        if high <= low {
            high = low + 1.0;
        }
        let fits = |ticks: &[Tick]| {
            let part = |pair: &[Tick]| (pair[1].place - pair[0].place).abs() / (high - low);
            ticks
                .windows(2)
                .all(|pair| fits(&pair[0], &pair[1], part(pair)))
        };
        let (mut ticks, mut minor) = match empty {
            true => (Vec::new(), Vec::new()),
            false if log => decades(lowest_tick, high, &fits),
            false => (multiples(lowest_tick, high, axis.scale, &fits), Vec::new()),
        };
        let exactly = under.iter().all(|v| *v == 0.0);
        ticks.extend(zero.map(|zero| tick(zero, if exactly { "0" } else { "≤ 0" })));
        minor.retain(|line| ticks.iter().all(|tick| tick.place != *line));
        Ruler {
            scale: axis.scale,
            low,
            high,
            zero,
            ticks,
            minor,
        }
    }

    /// The part of the axis, 0 to 1, before a value; beyond that for what is not on it.
    pub fn part(&self, value: f64) -> f64 {
        self.part_of_place(if self.scale != Scale::Log {
            value
        } else if value > 0.0 {
            value.log10()
        } else {
            self.zero.unwrap_or(self.low)
        })
    }

    pub fn part_of_place(&self, place: f64) -> f64 {
        (place - self.low) / (self.high - self.low)
    }
}

type Fits<'a> = &'a dyn Fn(&[Tick]) -> bool;

/// The multiples of 1, 2 or 5 times a power of ten between two ends: about six of them, fewer where they do not fit, and
/// at least three unless they would not be whole any more.
fn multiples(low: f64, high: f64, scale: Scale, fits: Fits) -> Vec<Tick> {
    let least = if scale == Scale::Linear { i32::MIN } else { 0 };
    let step =
        |nth: i32| [1.0, 2.0, 5.0][nth.rem_euclid(3) as usize] * 10f64.powi(nth.div_euclid(3));
    let places = |nth: i32| {
        let step = step(nth);
        let range = (low / step).ceil() as i64..=(high / step).floor() as i64;
        range.map(move |i| i as f64 * step)
    };
    let largest = low.abs().max(high.abs());
    let ticks = |nth: i32| -> Vec<Tick> {
        let power = nth.div_euclid(3);
        let label = |value: f64| {
            if value != 0.0 && !(1e-3..1e6).contains(&largest) {
                let digits = (value.abs().log10().floor() as i32 - power).clamp(0, 12) as usize;
                let text = format!("{value:.digits$e}");
                let (factor, exponent) = text.split_once('e').expect("an exponent");
                return format!("{factor}×{}", power_of_ten(exponent)).replace('-', "−");
            }
            let digits = (-power).clamp(0, 12) as usize;
            // A zero has no sign.
            format!("{:.digits$}", value + 0.0).replace('-', "−")
        };
        places(nth).map(|value| tick(value, label(value))).collect()
    };
    let rough = (high - low) / 6.0;
    let mut nth = (3.0 * rough.log10()).floor() as i32 - 1;
    while step(nth) < rough * 0.999 {
        nth += 1;
    }
    nth = nth.max(least);
    while nth > least && places(nth).count() < 3 {
        nth -= 1;
    }
    while !fits(&ticks(nth)) && places(nth + 1).count() >= 3 {
        nth += 1;
    }
    ticks(nth)
}

/// Ticks between two logarithms, and the places of lines between them: every decade, or every second, third, ... where
/// they do not fit; where decades are few, twice and five times them as well; within a decade, values with even spaces.
fn decades(low: f64, high: f64, fits: Fits) -> (Vec<Tick>, Vec<f64>) {
    let all: Vec<i64> = (low.ceil() as i64..=high.floor() as i64).collect();
    let every = |nth: i64| -> Vec<Tick> {
        let labelled = all.iter().filter(|decade| *decade % nth == 0);
        labelled
            .map(|decade| tick(*decade as f64, power_of_ten(&decade.to_string())))
            .collect()
    };
    // A dozen of labels says it all.
    let longest = all.len().max(1) as i64;
    let nth = (1..longest).find(|nth| {
        let ticks = every(*nth);
        ticks.len() <= 12 && fits(&ticks)
    });
    let nth = nth.unwrap_or(longest);
    let mut ticks = every(nth);
    if nth > 1 {
        return (ticks, all.iter().map(|decade| *decade as f64).collect());
    }
    let mut between = Vec::new();
    for decade in low.floor() as i64..=high.floor() as i64 {
        for factor in 2..10 {
            let place = decade as f64 + f64::from(factor).log10();
            between.push((place, factor, decade));
        }
    }
    between.retain(|(place, ..)| (low..=high).contains(place));
    if ticks.len() < 3 {
        let coarse = between
            .iter()
            .filter(|(_, factor, _)| [2, 5].contains(factor));
        ticks.extend(coarse.map(|(place, factor, decade)| {
            tick(
                *place,
                format!("{factor}×{}", power_of_ten(&decade.to_string())),
            )
        }));
        ticks.sort_by(|a, b| a.place.total_cmp(&b.place));
    }
    if ticks.len() < 3 {
        let always = |_: &[Tick]| true;
        let values = multiples(10f64.powf(low), 10f64.powf(high), Scale::Linear, &always);
        let values = values.into_iter();
        ticks = values.map(|t| tick(t.place.log10(), t.label)).collect();
    }
    // Many decades have no room for the lines between.
    if all.len() > 8 {
        between.clear();
    }
    (ticks, between.into_iter().map(|line| line.0).collect())
}

/// 10 with an exponent, which may be one of Unicode's minus signs and digits.
fn power_of_ten(exponent: &str) -> String {
    let raised = |c: char| match c {
        '-' | '−' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).expect("a superscript"),
    };
    std::iter::once("10".to_owned())
        .chain(exponent.chars().map(|c| raised(c).into()))
        .collect()
}
