//! Numbers of messages: none is rounded without notice.
//!
//! An integer of 64 bits is an `int` or a `uint`, any other number is a `double` if the double's
//! shortest text is the same number. The rest are [`LongNumber`]s, which keep their text:
//!
//! - Integers beyond 64 bits are compared and copied exactly. Arithmetic rejects them.
//! - Decimals with more digits than the double's shortest text are copied exactly. In
//!   arithmetic and beside doubles they count as the nearest double, as in every JSON reader
//!   with doubles. Among each other, those of more than 17 digits are compared exactly: no
//!   double has so many.

use std::any::Any;
use std::cmp::Ordering;

use cel::common::types::{CelDouble, CelInt, CelUInt, DOUBLE_TYPE, Type};
use cel::common::value::{StaticVal, Val};
use serde_json::json;

use crate::json_reader::NumberText;

/// Digits that are enough to tell every double from every other.
const DOUBLE_DIGITS: usize = 17;

/// Type of the integers that no arithmetic takes.
static LONG_INTEGER_TYPE: Type = Type::new_unspecified_type("integer beyond 64 bits");

/// A number that is neither a 64-bit integer nor the shortest text of a double.
#[derive(Debug, Clone)]
pub(super) struct LongNumber {
    text: Box<str>,
    nearest: f64,
    decimal: Decimal,
    is_integer: bool,
}

/// A number as its decimal digits: 0.DIGITS times ten to the power of `exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: Box<[u8]>,
    exponent: i64,
}

/// A value as a number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number<'a> {
    /// An `int` or a `uint`.
    Integer(i128),
    Double(f64),
    Long(&'a LongNumber),
}

/// The value of a number as it is written in JSON.
pub(super) fn value(number: NumberText<'_>) -> Box<dyn Val> {
    let text = number.text;
    if number.is_integer {
        // A negative zero is the double that it is for every other reader.
        if text == "-0" {
            return Box::new(CelDouble::from(-0.0));
        }
        if let Ok(value) = text.parse::<i64>() {
            return Box::new(CelInt::from(value));
        }
        if let Ok(value) = text.parse::<u64>() {
            return Box::new(CelUInt::from(value));
        }
    }
    let nearest: f64 = text.parse().expect("the reader checked the number");
    if !number.is_integer && is_shortest(text, nearest) {
        return Box::new(CelDouble::from(nearest));
    }
    Box::new(LongNumber {
        text: text.into(),
        nearest,
        decimal: Decimal::parse(text),
        is_integer: number.is_integer,
    })
}

/// Whether the text of the double, as JSON, is the same number.
fn is_shortest(text: &str, double: f64) -> bool {
    // Up to 15 digits survive the way to a double and back; the mark, the point and the sign
    // of a number, and zeros in front, only make this estimate too high.
    let digits = text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E'));
    let few = digits.filter(u8::is_ascii_digit).count() <= 15 && double.is_normal();
    few || Decimal::parse(text) == Decimal::parse(&json!(double).to_string())
}

impl Decimal {
    /// Parses a number of JSON's grammar, or of Rust's formatting.
    fn parse(text: &str) -> Self {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = all.iter().take_while(|digit| **digit == b'0').count();
        let end = all.iter().rposition(|digit| *digit != b'0');
        let digits: Box<[u8]> = match end {
            Some(end) => all[zeros..=end].into(),
            None => [].into(),
        };
        // Only a number that is as good as zero has an exponent of so many digits.
        let power = power.parse::<i64>().unwrap_or(i64::MIN / 2);
        Self {
            is_negative,
            exponent: match digits.is_empty() {
                true => 0,
                false => power.saturating_add(whole.len() as i64 - zeros as i64),
            },
            digits,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude = || {
            let exponents = self.exponent.cmp(&other.exponent);
            exponents.then_with(|| self.digits.cmp(&other.digits))
        };
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => magnitude(),
            _ => magnitude().reverse(),
        })
    }

    /// Writes the number so that equal numbers have equal texts.
    fn canonical(&self) -> String {
        let digits = std::str::from_utf8(&self.digits).expect("digits are ASCII");
        let sign = if self.is_negative { "-" } else { "" };
        match self.exponent - self.digits.len() as i64 {
            zeros @ 0..400 => format!("{sign}{digits}{}", "0".repeat(zeros as usize)),
            power => format!("{sign}{digits}e{power}"),
        }
    }
}

impl LongNumber {
    /// The number as it was sent.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_integer(&self) -> bool {
        self.is_integer
    }

    pub(super) fn nearest(&self) -> f64 {
        self.nearest
    }

    fn is_exact(&self) -> bool {
        self.is_integer || self.decimal.digits.len() > DOUBLE_DIGITS
    }
}

impl<'a> Number<'a> {
    pub(super) fn of(value: &'a (dyn Val + '_)) -> Option<Self> {
        if let Some(int) = value.downcast_ref::<CelInt>() {
            Some(Self::Integer((*int.inner()).into()))
        } else if let Some(double) = value.downcast_ref::<CelDouble>() {
            Some(Self::Double(*double.inner()))
        } else if let Some(uint) = value.downcast_ref::<CelUInt>() {
            Some(Self::Integer((*uint.inner()).into()))
        } else {
            value.downcast_ref::<LongNumber>().map(Self::Long)
        }
    }

    /// Compares two numbers by their exact values. `None` if one is not a number (NaN).
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        use Number::{Double, Integer, Long};
        match (self, other) {
            (Integer(a), Integer(b)) => Some(a.cmp(&b)),
            (Double(a), Double(b)) => a.partial_cmp(&b),
            (Integer(a), Double(b)) => compare_to_double(a, b),
            (Long(a), Long(b)) if a.is_exact() && b.is_exact() => {
                Some(a.decimal.compare(&b.decimal))
            }
            (Long(a), Integer(b)) if a.is_exact() => {
                Some(a.decimal.compare(&Decimal::parse(&b.to_string())))
            }
            (Long(a), Double(b)) if a.is_integer => match b.is_finite() {
                true => Some(a.decimal.compare(&Decimal::parse(&format!("{b:.0}")))),
                false => a.nearest.partial_cmp(&b),
            },
            (Long(a), _) if !a.is_integer => Double(a.nearest).compare(other),
            (_, Double(_) | Long(_)) => other.compare(self).map(Ordering::reverse),
            (Long(a), Integer(b)) => Double(a.nearest).compare(Integer(b)),
            (Double(a), Integer(b)) => compare_to_double(b, a).map(Ordering::reverse),
        }
    }

    /// The number as the part of a key: equal numbers have equal texts.
    pub(super) fn canonical(self) -> String {
        match self {
            Self::Integer(value) => value.to_string(),
            Self::Double(value) if value.fract() == 0.0 => {
                Decimal::parse(&format!("{:.0}", value.abs()))
                    .with_sign(value < 0.0)
                    .canonical_or_zero()
            }
            Self::Double(value) => json!(value).to_string(),
            Self::Long(long) if long.is_exact() => long.decimal.canonical_or_zero(),
            Self::Long(long) => Self::Double(long.nearest).canonical(),
        }
    }
}

impl Decimal {
    fn with_sign(mut self, is_negative: bool) -> Self {
        self.is_negative = is_negative;
        self
    }

    fn canonical_or_zero(&self) -> String {
        match self.digits.is_empty() {
            true => "0".to_owned(),
            false => self.canonical(),
        }
    }
}

/// Compares an integer to a double by their exact values.
fn compare_to_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Conversions to integers saturate, which keeps the order: every integer has 65 bits.
    let whole = integer.cmp(&(double.trunc() as i128));
    Some(whole.then_with(|| match double.fract() {
        fract if fract > 0.0 => Ordering::Less,
        fract if fract < 0.0 => Ordering::Greater,
        _ => Ordering::Equal,
    }))
}

impl Val for LongNumber {
    fn get_type(&self) -> &Type {
        match self.is_integer {
            true => &LONG_INTEGER_TYPE,
            false => &DOUBLE_TYPE,
        }
    }

    fn cel_type() -> &'static Type {
        &LONG_INTEGER_TYPE
    }

    fn equals(&self, other: &dyn Val) -> bool {
        Number::of(other)
            .is_some_and(|other| Number::Long(self).compare(other) == Some(Ordering::Equal))
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for LongNumber {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_reader::Reader;

    fn parsed(text: &str) -> Box<dyn Val> {
        value(Reader::new(text).number().unwrap())
    }

    fn compare(a: &str, b: &str) -> Ordering {
        let (a, b) = (parsed(a), parsed(b));
        let (a, b) = (Number::of(&*a).unwrap(), Number::of(&*b).unwrap());
        let order = a.compare(b).unwrap();
        assert_eq!(b.compare(a), Some(order.reverse()));
        order
    }

    #[test]
    fn numbers_are_compared_by_their_exact_values() {
        // In order; those of one row are equal.
        let rows = [
            vec!["-1e300"],
            vec!["-123456789012345678901234567891"],
            vec!["-123456789012345678901234567890"],
            vec!["-9223372036854775809"],
            vec!["-9223372036854775808", "-9223372036854775808.0"],
            vec!["-1", "-1.0", "-10e-1"],
            vec!["0", "-0", "0.0", "0e5"],
            vec!["0.1", "0.10", "1e-1", "0.10000000000000001"],
            vec!["9007199254740992", "9007199254740992.0"],
            vec!["9007199254740993"],
            vec!["9223372036854775807"],
            vec!["9223372036854775808", "9223372036854775808.0"],
            vec!["18446744073709551615"],
            vec!["18446744073709551616", "18446744073709551616.0"],
            vec!["18446744073709551617"],
            vec!["100000000000000000000", "1e20", "1E+20"],
            vec!["100000000000000000001"],
        ];
        for (n, row) in rows.iter().enumerate() {
            for (m, other) in rows.iter().enumerate() {
                for a in row {
                    for b in other {
                        assert_eq!(compare(a, b), n.cmp(&m), "{a} and {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn equal_numbers_have_equal_keys_and_different_numbers_different_ones() {
        let key = |text: &str| Number::of(&*parsed(text)).unwrap().canonical();
        for row in [
            vec!["1", "1.0", "10e-1", "1.00000"],
            vec!["0", "-0", "-0.0", "0e9"],
            vec!["-3", "-3.0"],
            vec!["100000000000000000000", "1e20"],
            vec!["0.5", "0.50", "5e-1"],
        ] {
            for text in &row {
                assert_eq!(key(text), key(row[0]), "{text}");
            }
        }
        let different = [
            "18446744073709551616",
            "18446744073709551617",
            "18446744073709551616.5",
            "117.63331139400017",
            "117.63331139400016",
            "12345678901234567.8901",
            "12345678901234567.8902",
            "1e300",
            "1e301",
            "0.1",
            "-0.1",
        ];
        for (n, text) in different.iter().enumerate() {
            for other in &different[..n] {
                assert_ne!(key(text), key(other), "{text} {other}");
            }
        }
    }

    #[test]
    fn a_double_keeps_its_value_and_every_other_number_its_text() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let double = f64::from_bits(random.u64(..));
            if !double.is_finite() {
                continue;
            }
            let value = parsed(&json!(double).to_string());
            let read = value.downcast_ref::<CelDouble>().map(|read| *read.inner());
            assert_eq!(read, Some(double));
            // Of two shortest texts, another printer may choose the other one.
            let value = parsed(&format!("{double:e}"));
            let read = match Number::of(&*value) {
                Some(Number::Double(read)) => read,
                Some(Number::Long(long)) => long.nearest(),
                _ => panic!("{double:e} is not a double"),
            };
            assert_eq!(read, double);
        }
        for text in [
            "0.1000000000000000055511151231257827",
            "0.10000000000000001",
            "12345678901234567.89",
            "123456789012345678901234567890",
            "-9223372036854775809",
            "1e-400",
        ] {
            let value = parsed(text);
            let long = value.downcast_ref::<LongNumber>().expect(text);
            assert_eq!(long.text(), text);
        }
    }
}
