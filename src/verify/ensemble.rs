//! Judging by the reference's own spread.
//!
//! An ensemble holds what the reference printed for one and the same thing under many correct roundings: other
//! numbers of threads, other instruction sets, double precision, a last digit changed at the start. Its members
//! say how far rounding may carry a number, and so which difference of ours is one.
//!
//! Of each number, m is the members' median and s their largest deviation from it; ours is |ours - m| / s
//! spreads away. What has once spread stays spread: s is not below the largest relative spread so far of the same
//! series (a loss from epoch to epoch, gradients from the last layer to the first), nor below what the record can
//! resolve. Each member judged by the others tells how far away a correct run can be, and up to twice that is
//! passed.
//!
//! Where a run forks (a ReLU's input near zero, a step size near divergence), members part suddenly. A
//! member that parts alone is many spreads away from the others. Then a fork may come at any step, so s is that of the
//! whole series, and such a member does not say how far rounding goes. Members may also part in groups, each of which
//! agrees within itself: that is a fork as well, though none of them is alone. Behind forks ours need not be within the
//! median's branch: whatever is near some member is within the spread.

use std::collections::{BTreeMap, HashMap};

use super::Check;

/// A number's place in a computation, and its value.
#[derive(Clone, Debug)]
pub struct Number {
    pub series: String,
    /// When it was computed, within the series. Numbers of the same time are entries of one tensor: they spread together.
    pub time: (usize, usize),
    pub value: f64,
    /// The smallest difference that the record can show, where that is more than single precision.
    pub grain: f64,
}

/// Numbers by name.
pub type Numbers = BTreeMap<String, Number>;

/// The size of a tensor's entries, or of a number that stands alone: the largest absolute value at each time.
pub fn sizes<'a>(
    numbers: impl Iterator<Item = (&'a Number, f64)>,
) -> HashMap<(&'a str, (usize, usize)), f64> {
    let mut sizes = HashMap::new();
    for (number, value) in numbers {
        let size: &mut f64 = sizes.entry(number.place()).or_default();
        *size = size.max(value.abs());
    }
    sizes
}

impl Number {
    pub fn new(series: &str, time: (usize, usize), value: f64) -> Number {
        Number {
            series: series.to_owned(),
            time,
            value,
            grain: 0.0,
        }
    }

    pub fn place(&self) -> (&str, (usize, usize)) {
        (&self.series, self.time)
    }
}

/// Members are written in single precision; those four roundings away from the median are the same.
const SAME: f64 = 4.0 * f32::EPSILON as f64 / 2.0;
/// Spreads beyond which a member has parted from all others.
const ALONE: f64 = 10.0;
/// Two groups of members have parted if the gap between them is this many times as wide as the wider one.
const PARTED: f64 = 100.0;
/// Members without whom there is no spread.
const FEWEST: usize = 3;
/// What passes, in distances that a correct run shows.
const ALLOWED: f64 = 2.0;

/// One line of the report whose cases are judged by ensembles.
#[derive(Default)]
pub struct Judge {
    cases: Vec<Case>,
    /// Cases that cannot be judged.
    failures: Vec<String>,
}

impl Judge {
    /// Adds a case: our numbers, and those of all members.
    pub fn add(&mut self, name: &str, ours: Numbers, members: &[Numbers]) {
        if members.len() < FEWEST {
            let why = format!("{name}: an ensemble of {}, needs {FEWEST}", members.len());
            return self.failures.push(why);
        }
        for member in members {
            let extra = member.keys().find(|at| !ours.contains_key(*at));
            let missing = ours.keys().find(|at| !member.contains_key(*at));
            let why = match (extra, missing) {
                (Some(at), _) => format!("{name} {at}: missing"),
                (_, Some(at)) => format!("{name} {at}: only ours has it"),
                (None, None) => continue,
            };
            return self.failures.push(why);
        }
        let values = |numbers: &Numbers| numbers.values().map(|n| n.value).collect::<Vec<f64>>();
        let members = members.iter().map(values).collect();
        self.cases.push(Case::new(name.to_owned(), ours, members));
    }

    /// How far away a correct run is at most: the worst of the members judged by the others, but those that
    /// part alone.
    pub fn limit(&self) -> f64 {
        let apart = self.cases.iter().flat_map(|case| &case.members_apart);
        apart.copied().filter(|x| *x <= ALONE).fold(1.0, f64::max)
    }

    /// Compares all numbers of all cases.
    pub fn check(self, about: impl Into<String>) -> Check {
        let mut check = Check::new(about, ALLOWED * self.limit());
        for case in &self.cases {
            check.cases += 1;
            let ours: Vec<f64> = case.ours.values().map(|n| n.value).collect();
            let judged = case.ours.keys().zip(case.apart(&ours, None));
            for ((at, apart), ours) in judged.zip(&ours) {
                check.count(apart.spreads, || {
                    format!(
                        "{} {at}: {ours} for {} ± {:.1e}",
                        case.name, apart.median, apart.spread
                    )
                });
            }
        }
        for why in self.failures {
            check.fail(why);
        }
        check
    }
}

struct Case {
    name: String,
    ours: Numbers,
    /// Of each member, the values in the order of `ours`.
    members: Vec<Vec<f64>>,
    /// Do members part from the others, alone or in a group?
    forks: bool,
    /// The largest distance of each member from the others, in spreads of theirs.
    members_apart: Vec<f64>,
}

/// How far a number is from a median.
struct Apart {
    median: f64,
    spread: f64,
    spreads: f64,
}

impl Case {
    fn new(name: String, ours: Numbers, members: Vec<Vec<f64>>) -> Case {
        let mut case = Case {
            name,
            ours,
            members,
            forks: false,
            members_apart: Vec::new(),
        };
        case.members_apart = case.leave_one_out();
        case.forks = case.members_apart.iter().any(|x| *x > ALONE) || case.parts_in_groups();
        if case.forks {
            case.members_apart = case.leave_one_out();
        }
        case
    }

    /// Is there a number of which the members have values in two groups, far from each other?
    fn parts_in_groups(&self) -> bool {
        let parts = |(k, number): (usize, &Number)| {
            let values = self.members.iter().map(|m| m[k]);
            let mut values: Vec<f64> = values.filter(|x| x.is_finite()).collect();
            values.sort_by(f64::total_cmp);
            let (Some(first), Some(last)) = (values.first(), values.last()) else {
                return false;
            };
            let least = number.grain.max(SAME * first.abs().max(last.abs()));
            values.windows(2).any(|pair| {
                let width = (pair[0] - first).max(last - pair[1]).max(least);
                pair[1] - pair[0] > PARTED * width
            })
        };
        self.ours.values().enumerate().any(parts)
    }

    fn leave_one_out(&self) -> Vec<f64> {
        let one = |member: usize| {
            let apart = self.apart(&self.members[member], Some(member));
            apart.iter().map(|a| a.spreads).fold(0.0, f64::max)
        };
        (0..self.members.len()).map(one).collect()
    }

    /// How far numbers are from the members, one of whom may be left out.
    fn apart(&self, values: &[f64], left_out: Option<usize>) -> Vec<Apart> {
        let judges = self.members.iter().enumerate();
        let judges: Vec<&Vec<f64>> = judges
            .filter(|(i, _)| Some(*i) != left_out)
            .map(|(_, m)| m)
            .collect();
        let numbers: Vec<&Number> = self.ours.values().collect();
        let medians: Vec<f64> = (0..numbers.len())
            .map(|k| median(judges.iter().map(|m| m[k]).collect()))
            .collect();
        let sizes = sizes(numbers.iter().copied().zip(medians.iter().copied()));

        let own: Vec<f64> = (0..numbers.len())
            .map(|k| {
                let away = judges.iter().map(|m| distance(m[k], medians[k]));
                let same = if medians[k].is_finite() {
                    SAME * medians[k].abs()
                } else {
                    0.0
                };
                away.fold(numbers[k].grain.max(same), f64::max)
            })
            .collect();
        // The largest relative spread at each time of each series, and then up to each time.
        let mut relative: BTreeMap<&str, BTreeMap<(usize, usize), f64>> = BTreeMap::new();
        for (number, own) in numbers.iter().zip(&own) {
            let at_time = relative.entry(&number.series).or_default();
            let widest = at_time.entry(number.time).or_default();
            // What all members call zero has no relative spread.
            let size = sizes[&number.place()];
            if size > 0.0 {
                *widest = widest.max(own / size);
            }
        }
        for at_time in relative.values_mut() {
            let whole = at_time.values().copied().fold(0.0, f64::max);
            let mut so_far = if self.forks { whole } else { 0.0 };
            for widest in at_time.values_mut() {
                so_far = so_far.max(*widest);
                *widest = so_far;
            }
        }
        (0..numbers.len())
            .map(|k| {
                let (series, time) = numbers[k].place();
                let spread = own[k].max(relative[series][&time] * sizes[&(series, time)]);
                Apart {
                    median: medians[k],
                    spread,
                    spreads: match distance(values[k], medians[k]) {
                        0.0 => 0.0,
                        // Members that are finite and members that are not: anything is possible.
                        _ if spread.is_infinite() => 0.0,
                        away => away / spread,
                    },
                }
            })
            .collect()
    }
}

/// Numbers that are not finite are no distance apart, or infinitely far.
fn distance(a: f64, b: f64) -> f64 {
    match (a - b).abs() {
        _ if a == b || (a.is_nan() && b.is_nan()) => 0.0,
        away if away.is_nan() => f64::INFINITY,
        away => away,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 if values[middle - 1] != values[middle] => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Verdict;

    /// A run of this many losses.
    fn run(losses: &[f64]) -> Numbers {
        let losses = losses.iter().enumerate();
        losses
            .map(|(e, x)| (format!("epoch {e}"), Number::new("loss", (e, 0), *x)))
            .collect()
    }

    fn judge(members: &[&[f64]], ours: &[f64]) -> Check {
        let members: Vec<Numbers> = members.iter().map(|m| run(m)).collect();
        let mut judge = Judge::default();
        judge.add("case", run(ours), &members);
        judge.check("losses")
    }

    #[test]
    fn ours_is_judged_by_the_largest_deviation_from_the_median() {
        let members: &[&[f64]] = &[&[1.0], &[1.001], &[0.998], &[1.002], &[0.999]];
        let check = judge(members, &[1.003]);
        assert!((check.worst - 1.5).abs() < 1e-9, "{check:?}");
        // Left out, 0.998 is 2.5 from the median 1.0005 of the others, whose spread is 1.5.
        assert!(
            (check.tolerance - 2.0 * 2.5 / 1.5).abs() < 1e-9,
            "{check:?}"
        );
        assert_eq!(check.verdict(), Verdict::Passed);
        assert_eq!(judge(members, &[1.007]).verdict(), Verdict::Failed);
        assert_eq!(judge(members, &[0.993]).verdict(), Verdict::Failed);
    }

    #[test]
    fn four_roundings_of_single_precision_are_no_difference() {
        let members: &[&[f64]] = &[&[3.0], &[3.0], &[3.0]];
        let half_ulp = 3.0 * f64::from(f32::EPSILON) / 2.0;
        assert_eq!(
            judge(members, &[3.0 + 7.9 * half_ulp]).verdict(),
            Verdict::Passed
        );
        assert_eq!(
            judge(members, &[3.0 + 8.1 * half_ulp]).verdict(),
            Verdict::Failed
        );
    }

    #[test]
    fn a_record_of_few_digits_resolves_no_less() {
        let member = run(&[0.5]);
        let mut ours = run(&[0.6]);
        ours.get_mut("epoch 0").unwrap().grain = 0.1;
        let mut judge = Judge::default();
        judge.add("case", ours, &[member.clone(), member.clone(), member]);
        assert_eq!(judge.check("scores").verdict(), Verdict::Passed);
    }

    #[test]
    fn what_has_spread_stays_spread() {
        // In the last epoch the members agree by chance.
        let members: &[&[f64]] = &[
            &[1.0, 1.0, 1.0],
            &[1.0, 1.01, 1.0],
            &[1.0, 0.99, 1.0],
            &[1.0, 1.01, 1.0],
        ];
        assert_eq!(judge(members, &[1.0, 1.0, 1.01]).verdict(), Verdict::Passed);
        // In the first they do not.
        assert_eq!(judge(members, &[1.01, 1.0, 1.0]).verdict(), Verdict::Failed);
    }

    #[test]
    fn one_fork_allows_forks_but_not_everything() {
        let members: &[&[f64]] = &[
            &[1.0, 0.5, 0.2],
            &[1.0, 0.5, 0.2],
            &[1.0, 0.5, 0.2],
            &[1.0, 0.5, 0.3],
        ];
        for ours in [[1.0, 0.5, 0.2], [1.0, 0.5, 0.3], [1.0, 0.6, 0.2]] {
            assert_eq!(judge(members, &ours).verdict(), Verdict::Passed, "{ours:?}");
        }
        assert_eq!(judge(members, &[1.0, 0.5, 0.5]).verdict(), Verdict::Failed);
    }

    #[test]
    fn a_branch_that_several_members_take_is_a_fork() {
        let ours = [1.01, 2.1];
        let judged = |parted: f64| {
            let members: [&[f64]; 6] = [
                &[1.0, 2.0],
                &[1.0 + 1e-6, 2.0],
                &[1.0 - 1e-6, 2.0],
                &[1.0, 2.0],
                &[1.0 + parted, 2.1],
                &[1.0 + parted, 2.2],
            ];
            judge(&members, &ours).verdict()
        };
        // A third branch may be as far away as the two have come in the end; where none have parted, it is not one.
        assert_eq!(judged(1e-3), Verdict::Passed);
        assert_eq!(judged(1e-5), Verdict::Failed);
    }

    #[test]
    fn entries_of_a_tensor_spread_together() {
        let tensor = |values: &[f64]| -> Numbers {
            let values = values.iter().enumerate();
            values
                .map(|(i, x)| (format!("w[{i}]"), Number::new("w", (0, 0), *x)))
                .collect()
        };
        let members =
            [[1.0, 0.001], [1.001, 0.001], [0.999, 0.001], [1.001, 0.001]].map(|m| tensor(&m));
        let verdict = |ours: &[f64]| {
            let mut judge = Judge::default();
            judge.add("case", tensor(ours), &members);
            judge.check("w").verdict()
        };
        assert_eq!(verdict(&[1.0, 0.002]), Verdict::Passed);
        assert_eq!(verdict(&[1.0, 0.02]), Verdict::Failed);
    }

    #[test]
    fn numbers_that_are_not_finite_are_compared_as_what_they_are() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for (theirs, other) in [
            (inf, -inf),
            (inf, nan),
            (nan, inf),
            (nan, 1.0),
            (inf, 1.0),
            (1.0, nan),
            (1.0, inf),
        ] {
            let members: &[&[f64]] = &[&[theirs], &[theirs], &[theirs]];
            assert_eq!(
                judge(members, &[theirs]).verdict(),
                Verdict::Passed,
                "{theirs}"
            );
            assert_eq!(
                judge(members, &[other]).verdict(),
                Verdict::Failed,
                "{other} for {theirs}"
            );
        }
        // Members that overflow, and others that do not: so may ours.
        for ours in [1.0, 1e30, inf, nan] {
            assert_eq!(
                judge(&[&[1.0], &[inf], &[1.0]], &[ours]).verdict(),
                Verdict::Passed,
                "{ours}"
            );
        }
    }

    #[test]
    fn missing_numbers_and_members_fail() {
        let members: &[&[f64]] = &[&[1.0, 0.5], &[1.0, 0.5], &[1.0, 0.5]];
        assert_eq!(judge(members, &[1.0]).verdict(), Verdict::Failed);
        assert_eq!(judge(members, &[1.0, 0.5, 0.2]).verdict(), Verdict::Failed);
        assert_eq!(judge(&members[..2], &[1.0, 0.5]).verdict(), Verdict::Failed);
    }
}
