//! What operators make of numbers.

use super::syntax::Operator;

impl Operator {
    /// In double.
    ///
    /// # Panics
    /// If there are not as many numbers as it takes.
    pub fn of_doubles(self, x: &[f64]) -> f64 {
        use Operator::*;
        let truth = |x: bool| f64::from(u8::from(x));
        match (self, x) {
            (Negate, [a]) => -a,
            (Not, [a]) => truth(*a == 0.0),
            (Sqrt, [a]) => a.sqrt(),
            (Abs, [a]) => a.abs(),
            (Sign, [a]) => match *a {
                a if a > 0.0 => 1.0,
                a if a < 0.0 => -1.0,
                a => a,
            },
            (Exp, [a]) => a.exp(),
            (Log, [a]) => a.ln(),
            (Floor, [a]) => a.floor(),
            (Add, [a, b]) => a + b,
            (Subtract, [a, b]) => a - b,
            (Multiply, [a, b]) => a * b,
            (Divide, [a, b]) => a / b,
            (Power, [a, b]) => a.powf(*b),
            (Less, [a, b]) => truth(a < b),
            (LessEqual, [a, b]) => truth(a <= b),
            (Greater, [a, b]) => truth(a > b),
            (GreaterEqual, [a, b]) => truth(a >= b),
            (Equal, [a, b]) => truth(a == b),
            (NotEqual, [a, b]) => truth(a != b),
            (And, [a, b]) => truth(*a != 0.0 && *b != 0.0),
            (Or, [a, b]) => truth(*a != 0.0 || *b != 0.0),
            (Min, [a, b]) => match *a {
                a if a < *b || a.is_nan() => a,
                _ => *b,
            },
            (Max, [a, b]) => match *a {
                a if a > *b || a.is_nan() => a,
                _ => *b,
            },
            (Where, [c, a, b]) => match *c != 0.0 {
                true => *a,
                false => *b,
            },
            (MultiplyAdd, [a, b, c]) => a.mul_add(*b, *c),
            _ => panic!("{self:?} of {} numbers", x.len()),
        }
    }
}
