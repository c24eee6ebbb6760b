//! Operators of expressions, in place of the `cel` crate's.
//!
//! The crate's operators (0.15) don't mix integers and doubles, compare them after rounding, and
//! copy whole operands into errors.

use std::cmp::Ordering;

use cel::common::functions::Function;
use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelString, CelTimestamp,
    CelUInt, DYN_TYPE, Kind,
};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, Value};

use super::budget::{spend, spend_copy, spend_making, spend_reading};
use super::numbers::{LongNumber, Number};

type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// The crate's names of operators with two operands, and ours. No source can contain ours.
const BINARY: [(&str, &str, Function); 12] = [
    ("_+_", "@add", |args| add(&pair(args))),
    ("_-_", "@subtract", |args| subtract(&pair(args))),
    ("_*_", "@multiply", |args| {
        arithmetic(&MULTIPLY, &pair(args))
    }),
    ("_/_", "@divide", |args| arithmetic(&DIVIDE, &pair(args))),
    ("_%_", "@remainder", |args| {
        arithmetic(&REMAINDER, &pair(args))
    }),
    ("_==_", "@equal", |args| Ok(bool(equal(&pair(args))?))),
    ("_!=_", "@unequal", |args| Ok(bool(!equal(&pair(args))?))),
    ("_<_", "@less", |args| {
        compare("_<_", &pair(args), Ordering::is_lt)
    }),
    ("_<=_", "@at_most", |args| {
        compare("_<=_", &pair(args), Ordering::is_le)
    }),
    ("_>_", "@more", |args| {
        compare("_>_", &pair(args), Ordering::is_gt)
    }),
    ("_>=_", "@at_least", |args| {
        compare("_>=_", &pair(args), Ordering::is_ge)
    }),
    ("@in", "@within", |args| contains(&pair(args))),
];

/// Our name of unary minus.
const NEGATE: &str = "@negate";

/// Our name of an operator of the `cel` crate.
pub(super) fn own_operator(operator: &str, operands: usize) -> Option<&'static str> {
    if operands == 1 {
        return (operator == "-_").then_some(NEGATE);
    }
    let mut binary = BINARY.iter().filter(|_| operands == 2);
    binary.find_map(|(theirs, own, _)| (*theirs == operator).then_some(*own))
}

/// Declares the operators.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    for (_, name, function) in BINARY {
        env.add_overload(name, name, vec![DYN_TYPE, DYN_TYPE], function)?;
    }
    env.add_overload(NEGATE, NEGATE, vec![DYN_TYPE], negate)
}

fn pair<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> [CowVal<'b, 'v>; 2] {
    args.try_into()
        .unwrap_or_else(|_| unreachable!("the operator is declared with two operands"))
}

fn bool<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::owned(CelBool::from(value))
}

fn no_overload(operator: &str, operands: &[CowVal<'_, '_>]) -> ExecutionError {
    let types = operands.iter().map(|value| value.get_type().name().into());
    ExecutionError::no_such_overload(operator, types.collect())
}

/// An operation on two numbers.
struct Arithmetic {
    operator: &'static str,
    name: &'static str,
    integers: fn(i128, i128) -> Option<i128>,
    doubles: fn(f64, f64) -> f64,
}

const ADD: Arithmetic = Arithmetic {
    operator: "_+_",
    name: "add",
    integers: i128::checked_add,
    doubles: |a, b| a + b,
};
const SUBTRACT: Arithmetic = Arithmetic {
    operator: "_-_",
    name: "sub",
    integers: i128::checked_sub,
    doubles: |a, b| a - b,
};
const MULTIPLY: Arithmetic = Arithmetic {
    operator: "_*_",
    name: "mul",
    integers: i128::checked_mul,
    doubles: |a, b| a * b,
};
const DIVIDE: Arithmetic = Arithmetic {
    operator: "_/_",
    name: "div",
    integers: i128::checked_div,
    doubles: |a, b| a / b,
};
const REMAINDER: Arithmetic = Arithmetic {
    operator: "_%_",
    name: "rem",
    integers: i128::checked_rem,
    doubles: |a, b| a % b,
};

/// Calculates with integers if both operands are integers, else with doubles.
fn arithmetic<'b, 'v>(operation: &Arithmetic, operands: &[CowVal<'b, 'v>; 2]) -> Outcome<'b, 'v> {
    let [a, b] = operands;
    let (Some(a), Some(b)) = (Number::of(a.as_ref()), Number::of(b.as_ref())) else {
        return Err(no_overload(operation.operator, operands));
    };
    if let (Number::Integer(a), Number::Integer(b)) = (a, b) {
        if b == 0 && operation.operator == DIVIDE.operator {
            return Err(ExecutionError::DivisionByZero(Value::Null));
        }
        if b == 0 && operation.operator == REMAINDER.operator {
            return Err(ExecutionError::RemainderByZero(Value::Null));
        }
        let uints = operands.iter().filter(|value| is_uint(value.as_ref()));
        let result = (operation.integers)(a, b).and_then(|result| integer(result, uints.count()));
        return result
            .ok_or_else(|| ExecutionError::Overflow(operation.name, Value::Null, Value::Null));
    }
    let result = (operation.doubles)(double(a)?, double(b)?);
    Ok(CowVal::owned(CelDouble::from(result)))
}

fn is_uint(value: &dyn Val) -> bool {
    value.downcast_ref::<CelUInt>().is_some()
}

/// An integer as a value: a `uint` if all operands are, else an `int`, or a `uint` if one
/// operand is and the integer is too large for an `int`.
fn integer<'b, 'v>(value: i128, uints: usize) -> Option<CowVal<'b, 'v>> {
    let uint = || u64::try_from(value).ok().map(CelUInt::from);
    let int = || i64::try_from(value).ok().map(CelInt::from);
    match uints {
        0 => int().map(CowVal::owned),
        1 => int()
            .map(CowVal::owned)
            .or_else(|| uint().map(CowVal::owned)),
        _ => uint().map(CowVal::owned),
    }
}

fn double(number: Number<'_>) -> Result<f64, ExecutionError> {
    match number {
        Number::Integer(value) => Ok(value as f64),
        Number::Double(value) => Ok(value),
        Number::Long(long) if long.is_integer() => Err(ExecutionError::function_error(
            "arithmetic",
            "an integer has more than 64 bits",
        )),
        Number::Long(long) => Ok(long.nearest()),
    }
}

fn add<'b, 'v>(operands: &[CowVal<'b, 'v>; 2]) -> Outcome<'b, 'v> {
    let [a, b] = operands;
    let is_sum = match (a.get_type().kind(), b.get_type().kind()) {
        (Kind::String, Kind::String) | (Kind::Bytes, Kind::Bytes) | (Kind::List, Kind::List) => {
            true
        }
        _ => is_time(a.as_ref()) && is_time(b.as_ref()),
    };
    match a.as_adder().filter(|_| is_sum) {
        Some(adder) => {
            for part in operands {
                match text_bytes(part.as_ref()) {
                    Some(bytes) => spend_making(bytes)?,
                    None => spend_copy(part.as_ref())?,
                }
            }
            Ok(CowVal::Owned(adder.add(b.as_ref())?.into_owned()))
        }
        None => arithmetic(&ADD, operands),
    }
}

/// The size of a text or of bytes.
fn text_bytes(value: &dyn Val) -> Option<usize> {
    let text = value.downcast_ref::<CelString<'_>>();
    let bytes = || value.downcast_ref::<CelBytes<'_>>();
    text.map(|text| text.inner().len())
        .or_else(|| bytes().map(|bytes| bytes.inner().len()))
}

fn subtract<'b, 'v>(operands: &[CowVal<'b, 'v>; 2]) -> Outcome<'b, 'v> {
    let [a, b] = operands;
    let is_time = is_time(a.as_ref()) && is_time(b.as_ref());
    match a.as_subtractor().filter(|_| is_time) {
        Some(subtractor) => Ok(CowVal::Owned(subtractor.sub(b.as_ref())?.into_owned())),
        None => arithmetic(&SUBTRACT, operands),
    }
}

fn is_time(value: &dyn Val) -> bool {
    value.downcast_ref::<CelTimestamp>().is_some() || value.downcast_ref::<CelDuration>().is_some()
}

fn negate<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let operand = &args[0];
    match Number::of(operand.as_ref()) {
        Some(Number::Integer(value)) => integer(-value, 0)
            .ok_or_else(|| ExecutionError::Overflow("negate", Value::Null, Value::Null)),
        Some(number) => Ok(CowVal::owned(CelDouble::from(-double(number)?))),
        None => match operand.as_negator() {
            Some(negator) => negator.negate().map(CowVal::Owned),
            None => Err(no_overload("-_", &args)),
        },
    }
}

/// Compares values of the same type, or two numbers.
fn compare<'b, 'v>(
    operator: &str,
    operands: &[CowVal<'b, 'v>; 2],
    holds: fn(Ordering) -> bool,
) -> Outcome<'b, 'v> {
    let [a, b] = operands;
    let order = match (Number::of(a.as_ref()), Number::of(b.as_ref())) {
        (Some(a), Some(b)) => a.compare(b),
        _ if a.get_type() == b.get_type() => {
            spend_reading(text_bytes(a.as_ref()).unwrap_or_default())?;
            let comparer = a.as_comparer();
            comparer.and_then(|comparer| comparer.compare(b.as_ref()).ok())
        }
        _ => None,
    };
    let order = order.ok_or_else(|| no_overload(operator, operands))?;
    Ok(bool(holds(order)))
}

fn equal(operands: &[CowVal<'_, '_>; 2]) -> Result<bool, ExecutionError> {
    let [a, b] = operands;
    are_equal(a.as_ref(), b.as_ref())
}

/// Compares two values by CEL's equality: values of different types are unequal, except
/// numbers, which are compared exactly.
fn are_equal(a: &dyn Val, b: &dyn Val) -> Result<bool, ExecutionError> {
    spend(1)?;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(a.compare(b) == Some(Ordering::Equal));
    }
    if let (Some(a), Some(b)) = (a.downcast_ref::<CelList<'_>>(), b.downcast_ref()) {
        let b: &CelList<'_> = b;
        if a.inner().len() != b.inner().len() {
            return Ok(false);
        }
        for (a, b) in a.inner().iter().zip(b.inner()) {
            if !are_equal(a.as_ref(), b.as_ref())? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if let (Some(a), Some(map)) = (a.downcast_ref::<CelMap<'_>>(), b.downcast_ref()) {
        let map: &CelMap<'_> = map;
        if a.inner().len() != map.inner().len() {
            return Ok(false);
        }
        for (key, a) in a.inner() {
            let found = b.as_indexer().and_then(|map| map.get(key.inner()).ok());
            match found {
                Some(b) if are_equal(a.as_ref(), b.as_ref())? => {}
                _ => return Ok(false),
            }
        }
        return Ok(true);
    }
    spend_reading(text_bytes(a).unwrap_or_default())?;
    Ok(a.equals(b))
}

/// Whether a list contains a value, or a map a key.
fn contains<'b, 'v>(operands: &[CowVal<'b, 'v>; 2]) -> Outcome<'b, 'v> {
    let [value, container] = operands;
    if let Some(list) = container.downcast_ref::<CelList<'_>>() {
        for item in list.inner() {
            if are_equal(item.as_ref(), value.as_ref())? {
                return Ok(bool(true));
            }
        }
        return Ok(bool(false));
    }
    let is_key = match value.get_type().kind() {
        Kind::Boolean | Kind::String => true,
        _ => Number::of(value.as_ref()).is_some(),
    };
    match container.as_container().filter(|_| is_key) {
        // No key is a long number.
        Some(_) if value.downcast_ref::<LongNumber>().is_some() => Ok(bool(false)),
        Some(map) => map.contains(value.as_ref()).map(bool),
        None => Err(no_overload("@in", operands)),
    }
}
