//! Operators as instructions.
//!
//! Sums, products, quotients and roots are those of IEEE 754. There are no instructions for exp, log and pow that are as
//! accurate as numbers want: they are computed in double, to some 1e-15 of exp and log and 1e-15 of the exponent of pow's
//! result, and rounded to single for vectors.

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};

use super::text::{Class, Operand, Text};
use crate::optim::formula::syntax::Operator;

/// The part of ln 2 that a double does not hold.
const LN_2_REST: f64 = 2.319_046_813_846_299_6e-17;

/// `value` as an operand like `x`.
fn like(x: Operand, value: f64) -> Operand {
    match x.class() {
        Class::Single => Operand::Single(value as f32),
        _ => Operand::Double(value),
    }
}

/// An operator on registers or constants, all single or all double. The result is a register.
pub fn apply(text: &mut Text, operator: Operator, from: &[Operand]) -> Operand {
    let x = from[0];
    let (zero, one) = (like(x, 0.0), like(x, 1.0));
    let mut truth = |text: &mut Text, predicate| text.select(one, zero, predicate);
    match operator {
        Operator::Negate => text.float("neg", from),
        Operator::Abs => text.float("abs", from),
        Operator::Sqrt => text.float("sqrt.rn", from),
        Operator::Add => text.float("add.rn", from),
        Operator::Subtract => text.float("sub.rn", from),
        Operator::Multiply => text.float("mul.rn", from),
        Operator::Divide => text.float("div.rn", from),
        Operator::MultiplyAdd => text.float("fma.rn", from),
        Operator::Floor => {
            let mnemonic = format!("cvt.rmi.{0}.{0}", x.suffix());
            text.put(x.class(), &mnemonic, from)
        }
        Operator::Sign => {
            let (above, below) = (text.compare("gt", x, zero), text.compare("lt", x, zero));
            // What is neither is its own sign: zeros and NaN.
            let sign = text.select(one, x, above);
            text.select(like(x, -1.0), sign, below)
        }
        Operator::Exp => in_double(text, from, |text, x| exp(text, x[0])),
        Operator::Log => in_double(text, from, |text, x| log(text, x[0])),
        Operator::Power => in_double(text, from, |text, x| power(text, x[0], x[1])),
        Operator::Not => compared(text, "eq", &[x, zero], &mut truth),
        Operator::Less => compared(text, "lt", from, &mut truth),
        Operator::LessEqual => compared(text, "le", from, &mut truth),
        Operator::Greater => compared(text, "gt", from, &mut truth),
        Operator::GreaterEqual => compared(text, "ge", from, &mut truth),
        Operator::Equal => compared(text, "eq", from, &mut truth),
        Operator::NotEqual => compared(text, "neu", from, &mut truth),
        Operator::And | Operator::Or => {
            let [a, b] = [from[0], from[1]].map(|x| text.compare("neu", x, zero));
            let mnemonic = if operator == Operator::And {
                "and.pred"
            } else {
                "or.pred"
            };
            let both = text.put(Class::Predicate, mnemonic, &[a, b]);
            truth(text, both)
        }
        Operator::Min => extreme(text, "lt", x, from[1]),
        Operator::Max => extreme(text, "gt", x, from[1]),
        Operator::Where => {
            let condition = text.compare("neu", x, zero);
            text.select(from[1], from[2], condition)
        }
    }
}

fn compared(
    text: &mut Text,
    how: &str,
    from: &[Operand],
    truth: &mut impl FnMut(&mut Text, Operand) -> Operand,
) -> Operand {
    let predicate = text.compare(how, from[0], from[1]);
    truth(text, predicate)
}

/// a if it comes first or is NaN, else b, which is what a NaN of b gives.
pub fn extreme(text: &mut Text, first: &str, a: Operand, b: Operand) -> Operand {
    let (first, nan) = (text.compare(first, a, b), text.compare("nan", a, a));
    let keep = text.put(Class::Predicate, "or.pred", &[first, nan]);
    text.select(a, b, keep)
}

fn in_double(
    text: &mut Text,
    from: &[Operand],
    body: impl Fn(&mut Text, &[Operand]) -> Operand,
) -> Operand {
    let wide: Vec<Operand> = from.iter().map(|x| wide(text, *x)).collect();
    let result = body(text, &wide);
    match from[0].class() {
        Class::Single => text.put(Class::Single, "cvt.rn.f32.f64", &[result]),
        _ => result,
    }
}

fn wide(text: &mut Text, x: Operand) -> Operand {
    match x {
        Operand::Single(value) => Operand::Double(value.into()),
        _ => text.double(x),
    }
}

/// Coefficients from the highest power down.
fn polynomial(text: &mut Text, x: Operand, coefficients: &[f64]) -> Operand {
    let mut sum = Operand::Double(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = text.float("fma.rn", &[sum, x, Operand::Double(c)]);
    }
    sum
}

/// x 2^k, for an integer k.
fn scaled(text: &mut Text, x: Operand, k: Operand) -> Operand {
    let factor = text.put(Class::Bits64, "add.s64", &[k, Operand::Integer(1023)]);
    let factor = text.put(Class::Bits64, "shl.b64", &[factor, Operand::Integer(52)]);
    let factor = text.put(Class::Double, "mov.b64", &[factor]);
    text.float("mul.rn", &[x, factor])
}

/// e^x = 2^k e^r with |r| at most ln 2 / 2, by 13 powers of r.
fn exp(text: &mut Text, x: Operand) -> Operand {
    let double = Operand::Double;
    // Beyond these it is infinite or 0 all the same; a NaN stays.
    let (above, below) = (
        text.compare("gt", x, double(710.0)),
        text.compare("lt", x, double(-746.0)),
    );
    let x = text.select(double(710.0), x, above);
    let x = text.select(double(-746.0), x, below);
    let k = text.float("mul.rn", &[x, double(LOG2_E)]);
    let k = text.put(Class::Double, "cvt.rni.f64.f64", &[k]);
    let r = text.float("fma.rn", &[k, double(-LN_2), x]);
    let r = text.float("fma.rn", &[k, double(-LN_2_REST), r]);
    let mut factorial = 1.0;
    let mut coefficients: Vec<f64> = vec![1.0];
    for i in 1..=13 {
        factorial *= f64::from(i);
        coefficients.insert(0, 1.0 / factorial);
    }
    let power = polynomial(text, r, &coefficients);
    // In two halves, as neither 2^1024 nor 2^-1075 is a double.
    let k = text.put(Class::Bits64, "cvt.rzi.s64.f64", &[k]);
    let half = text.put(Class::Bits64, "shr.s64", &[k, Operand::Integer(1)]);
    let rest = text.put(Class::Bits64, "sub.s64", &[k, half]);
    let power = scaled(text, power, half);
    scaled(text, power, rest)
}

/// log x = e ln 2 + log m with m between sqrt(1/2) and sqrt(2), by the series of atanh((m - 1) / (m + 1)).
fn log(text: &mut Text, x: Operand) -> Operand {
    let double = Operand::Double;
    let subnormal = text.compare("lt", x, double(f64::MIN_POSITIVE));
    let larger = text.float("mul.rn", &[x, double(2f64.powi(54))]);
    let normal = text.select(larger, x, subnormal);
    let bias = text.select(double(-54.0), double(0.0), subnormal);
    let bits = text.put(Class::Bits64, "mov.b64", &[normal]);
    let e = text.put(Class::Bits64, "shr.s64", &[bits, Operand::Integer(52)]);
    let e = text.put(Class::Bits64, "sub.s64", &[e, Operand::Integer(1023)]);
    let e = text.put(Class::Double, "cvt.rn.f64.s64", &[e]);
    let e = text.float("add.rn", &[e, bias]);
    let bits = text.put(
        Class::Bits64,
        "and.b64",
        &[bits, Operand::Integer((1 << 52) - 1)],
    );
    let bits = text.put(
        Class::Bits64,
        "or.b64",
        &[bits, Operand::Integer(1023 << 52)],
    );
    let m = text.put(Class::Double, "mov.b64", &[bits]);
    let large = text.compare("gt", m, double(SQRT_2));
    let half = text.float("mul.rn", &[m, double(0.5)]);
    let m = text.select(half, m, large);
    let next = text.float("add.rn", &[e, double(1.0)]);
    let e = text.select(next, e, large);
    let below = text.float("add.rn", &[m, double(-1.0)]);
    let above = text.float("add.rn", &[m, double(1.0)]);
    let s = text.float("div.rn", &[below, above]);
    let square = text.float("mul.rn", &[s, s]);
    let coefficients: Vec<f64> = (1..=11).rev().map(|i| 1.0 / f64::from(2 * i + 1)).collect();
    let series = polynomial(text, square, &coefficients);
    let series = text.float("mul.rn", &[series, square]);
    let twice = text.float("add.rn", &[s, s]);
    let rest = text.float("fma.rn", &[twice, series, twice]);
    let rest = text.float("fma.rn", &[e, double(LN_2_REST), rest]);
    let result = text.float("fma.rn", &[e, double(LN_2), rest]);
    // Infinity and NaN are their own logarithms.
    let finite = text.compare("lt", x, double(f64::INFINITY));
    let result = text.select(result, x, finite);
    let zero = text.compare("eq", x, double(0.0));
    let result = text.select(double(f64::NEG_INFINITY), result, zero);
    let negative = text.compare("lt", x, double(0.0));
    text.select(double(f64::NAN), result, negative)
}

/// e^(y log |x|) with the sign of x, if y is odd; as C's pow where there is no such number.
fn power(text: &mut Text, x: Operand, y: Operand) -> Operand {
    let double = Operand::Double;
    let size = text.float("abs", &[x]);
    let exponent = log(text, size);
    let exponent = text.float("mul.rn", &[y, exponent]);
    let power = exp(text, exponent);
    // 1^y and (-1)^inf, which inf * 0 is not.
    let limit = text.compare("nan", y, y);
    let number = text.put(Class::Predicate, "not.pred", &[limit]);
    let unit = text.compare("eq", size, double(1.0));
    let unit = text.put(Class::Predicate, "and.pred", &[unit, number]);
    let power = text.select(double(1.0), power, unit);
    // Of a negative x: the sign of an odd y, a number only of an integer y.
    let whole = text.put(Class::Double, "cvt.rzi.f64.f64", &[y]);
    let whole = text.compare("eq", whole, y);
    let half = text.float("mul.rn", &[y, double(0.5)]);
    let floor = text.put(Class::Double, "cvt.rmi.f64.f64", &[half]);
    let odd = text.compare("neu", floor, half);
    let odd = text.put(Class::Predicate, "and.pred", &[odd, whole]);
    let bits = text.put(Class::Bits64, "mov.b64", &[x]);
    let signed = text.put(
        Class::Predicate,
        "setp.lt.s64",
        &[bits, Operand::Integer(0)],
    );
    let odd = text.put(Class::Predicate, "and.pred", &[odd, signed]);
    let negated = text.float("neg", &[power]);
    let power = text.select(negated, power, odd);
    let negative = text.compare("lt", x, double(0.0));
    let finite = text.compare("gt", x, double(f64::NEG_INFINITY));
    let broken = text.put(Class::Predicate, "not.pred", &[whole]);
    let broken = text.put(Class::Predicate, "and.pred", &[broken, negative]);
    let broken = text.put(Class::Predicate, "and.pred", &[broken, finite]);
    let power = text.select(double(f64::NAN), power, broken);
    // Whatever x is, and whatever y is.
    let one = text.compare("eq", x, double(1.0));
    let none = text.compare("eq", y, double(0.0));
    let one = text.put(Class::Predicate, "or.pred", &[one, none]);
    text.select(double(1.0), power, one)
}
