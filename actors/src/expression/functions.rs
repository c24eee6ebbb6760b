//! Functions of expressions, in place of the `cel` crate's.
//!
//! The crate's functions (0.15) make results without a bound on their size, search in quadratic
//! time, and compile a regular expression for each call.

use std::cell::RefCell;
use std::collections::HashMap;

use cel::common::ast::{Expr, IdedExpr, LiteralValue};
use cel::common::functions::Function;
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelString, CelTimestamp, DYN_TYPE, INT_TYPE, Kind,
    LIST_TYPE, STRING_TYPE, Type,
};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use regex::{Regex, RegexBuilder};

use super::budget::{spend, spend_copy, spend_making, spend_reading, spend_visit};
use super::numbers::LongNumber;

type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// Makes a timestamp one of UTC: the crate's getters (0.15) take the offset of its text.
pub(super) const UTC: &str = "@utc";
/// Prepares an argument of a function: pays for reading it, turns a long decimal into a double.
pub(super) const ARGUMENT: &str = "@argument";
/// As [`ARGUMENT`], for `string`: a long number becomes its text.
pub(super) const DIGITS: &str = "@digits";
/// Pays for a copy of a value that is about to be kept.
pub(super) const COPY: &str = "@copy";
/// Pays for a value that a function or a list has made.
pub(super) const MADE: &str = "@made";
/// Pays for a round of a loop: its item, and the size of its body.
pub(super) const ROUND: &str = "@round";
/// Ends a loop when the budget is spent.
pub(super) const GOES_ON: &str = "@goes_on";

/// `matches` with a pattern of the source.
pub(super) const LITERAL_MATCHES: &str = "@matches_literal";
/// The text in lower case; any other value as it is.
pub(super) const LOWER: &str = "@lower";
/// Refuses an index that the interpreter would answer with a copy of the whole list.
pub(super) const KEY: &str = "@key";
/// Bounds the text of a format, in which a few bytes may ask for hundreds.
pub(super) const FORMAT: &str = "@format";

/// Functions of texts and lists that have an own form, which takes the target as its first
/// argument.
const OWN: [(&str, &str); 6] = [
    ("replace", "@replace"),
    ("join", "@join"),
    ("split", "@split"),
    ("indexOf", "@indexOf"),
    ("lastIndexOf", "@lastIndexOf"),
    ("matches", "@matches"),
];

/// Compiled regular expressions that a thread keeps.
const REGEXES_MAX: usize = 64;
/// Maximum bytes of a compiled regular expression of a manifest.
const LITERAL_REGEX_BYTES_MAX: usize = 1 << 20;
/// Maximum bytes of a compiled regular expression of a message.
const FOREIGN_REGEX_BYTES_MAX: usize = 64 << 10;
/// Steps of compiling a regular expression.
const REGEX_STEPS: u64 = 20_000;
/// Steps of matching a byte with a regular expression of a message, which may be a bad one.
const FOREIGN_STEPS_PER_BYTE: u64 = 4;

/// Maximum bytes of a format.
const FORMAT_BYTES_MAX: usize = 64 << 10;
/// Bytes of an item of a list that a function makes.
const ITEM_BYTES: usize = 64;

/// Our form of a function.
pub(super) fn own_function(name: &str) -> Option<&'static str> {
    let found = OWN.iter().find(|(theirs, _)| *theirs == name);
    found.map(|(_, own)| *own)
}

/// Declares the functions.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let text = || STRING_TYPE;
    let functions: [(&str, &str, Vec<Type>, Function); 22] = [
        (UTC, "utc", vec![DYN_TYPE], utc),
        (ARGUMENT, "argument", vec![DYN_TYPE], argument),
        (DIGITS, "digits", vec![DYN_TYPE], digits),
        (COPY, "copy", vec![DYN_TYPE], copy),
        (MADE, "made", vec![DYN_TYPE], made),
        (ROUND, "round", vec![DYN_TYPE, INT_TYPE], round),
        (GOES_ON, "goes_on", vec![DYN_TYPE], goes_on),
        ("@replace", "all", vec![text(), text(), text()], replace),
        (
            "@replace",
            "some",
            vec![text(), text(), text(), INT_TYPE],
            replace,
        ),
        ("@join", "plain", vec![LIST_TYPE], join),
        ("@join", "separated", vec![LIST_TYPE, text()], join),
        ("@split", "all", vec![text(), text()], split),
        ("@split", "some", vec![text(), text(), INT_TYPE], split),
        ("@indexOf", "all", vec![text(), text()], index_of),
        ("@indexOf", "from", vec![text(), text(), INT_TYPE], index_of),
        ("@lastIndexOf", "all", vec![text(), text()], last_index_of),
        (
            "@lastIndexOf",
            "from",
            vec![text(), text(), INT_TYPE],
            last_index_of,
        ),
        ("@matches", "matches", vec![text(), text()], matches),
        (
            LITERAL_MATCHES,
            "matches",
            vec![text(), text()],
            matches_literal,
        ),
        (FORMAT, "format", vec![DYN_TYPE], format),
        (LOWER, "lower", vec![DYN_TYPE], lower),
        (KEY, "key", vec![DYN_TYPE], key),
    ];
    for (name, id, types, function) in functions {
        env.add_overload(name, id, types, function)?;
    }
    Ok(())
}

/// Checks a regular expression that the source contains.
///
/// # Errors
/// The pattern is wrong.
pub(super) fn check_pattern(pattern: &IdedExpr) -> Result<(), String> {
    let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
        return Ok(());
    };
    compiled(pattern.inner(), LITERAL_REGEX_BYTES_MAX).map(drop)
}

fn compiled(pattern: &str, bytes_max: usize) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(bytes_max).build();
    regex.map_err(|error| {
        let text = error.to_string();
        // The first lines show the pattern, which may come from a message.
        let reason = text.lines().last().unwrap_or_default();
        format!(
            "wrong regular expression: {}",
            reason.trim_start_matches("error: ")
        )
    })
}

fn only<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> CowVal<'b, 'v> {
    args.pop()
        .unwrap_or_else(|| unreachable!("the function is declared with one argument"))
}

fn text<'a>(args: &'a [CowVal<'_, '_>], nth: usize) -> &'a str {
    let text = args[nth].downcast_ref::<CelString<'_>>();
    text.unwrap_or_else(|| unreachable!("the function is declared with a text"))
        .inner()
}

/// An optional number, if the function is declared with one.
fn integer(args: &[CowVal<'_, '_>], nth: usize) -> Option<i64> {
    let integer = args.get(nth)?.downcast_ref::<CelInt>()?;
    Some(*integer.inner())
}

fn utc<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = only(args);
    Ok(match value.downcast_ref::<CelTimestamp>() {
        Some(time) => CowVal::owned(CelTimestamp::from(time.inner().to_utc().fixed_offset())),
        None => value,
    })
}

fn argument<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = only(args);
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        spend_reading(text.inner().len())?;
    }
    Ok(match value.downcast_ref::<LongNumber>() {
        Some(long) if !long.is_integer() => CowVal::owned(CelDouble::from(long.nearest())),
        _ => value,
    })
}

fn digits<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let long = args[0].downcast_ref::<LongNumber>();
    match long.map(|long| CelString::from(long.text().to_owned())) {
        Some(digits) => Ok(CowVal::owned(digits)),
        None => argument(args),
    }
}

fn copy<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = only(args);
    spend_copy(value.as_ref())?;
    Ok(value)
}

fn made<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = only(args);
    if value.is_owned() {
        spend_copy(value.as_ref())?;
    }
    Ok(value)
}

fn key<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let is_key = match args[0].get_type().kind() {
        Kind::Boolean | Kind::Int | Kind::String | Kind::UInt => true,
        Kind::Double => args[0]
            .downcast_ref::<CelDouble>()
            .is_some_and(|double| double.inner().fract() == 0.0),
        _ => false,
    };
    if !is_key {
        let types = vec![args[0].get_type().name().to_owned()];
        return Err(ExecutionError::no_such_overload("_[_]", types));
    }
    Ok(only(args))
}

fn lower<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = only(args);
    let lower = value
        .downcast_ref::<CelString<'_>>()
        .map(|text| text.inner().to_ascii_lowercase());
    Ok(match lower {
        Some(lower) => {
            spend_making(lower.len())?;
            CowVal::owned(CelString::from(lower))
        }
        None => value,
    })
}

fn format<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = only(args);
    if let Some(text) = value.downcast_ref::<CelString<'_>>()
        && text.inner().len() > FORMAT_BYTES_MAX
    {
        let error = format!("a format has at most {FORMAT_BYTES_MAX} bytes");
        return Err(ExecutionError::function_error("format", error));
    }
    Ok(value)
}

fn round<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let size = integer(&args, 1).and_then(|size| u64::try_from(size).ok());
    spend(size.unwrap_or(1))?;
    spend_visit(args[0].as_ref())?;
    Ok(CowVal::owned(CelBool::from(true)))
}

fn goes_on<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    spend(1)?;
    Ok(only(args))
}

fn replace<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (text, from, to) = (text(&args, 0), text(&args, 1), text(&args, 2));
    // A negative number means all.
    let max =
        integer(&args, 3).map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
    spend_reading(text.len())?;
    let count = text.matches(from).take(max).count();
    spend_making(text.len().saturating_add(to.len().saturating_mul(count)))?;
    Ok(CowVal::owned(CelString::from(text.replacen(from, to, max))))
}

fn join<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let separator = if args.len() > 1 { text(&args, 1) } else { "" };
    let list = args[0].downcast_ref::<CelList<'_>>();
    let items = list.map(CelList::inner).unwrap_or_default();
    let mut joined = String::new();
    for (nth, item) in items.iter().enumerate() {
        let Some(item) = item.downcast_ref::<CelString<'_>>() else {
            let types = vec![format!("list with {}", item.get_type().name())];
            return Err(ExecutionError::no_such_overload("join", types));
        };
        let separator = if nth > 0 { separator } else { "" };
        spend(1)?;
        spend_making(separator.len() + item.inner().len())?;
        joined.push_str(separator);
        joined.push_str(item.inner());
    }
    Ok(CowVal::owned(CelString::from(joined)))
}

/// Splits into at most the given number of parts. An empty separator splits into characters.
fn split<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (text, separator) = (text(&args, 0), text(&args, 1));
    let max =
        integer(&args, 2).map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
    spend_reading(text.len())?;
    let parts: Box<dyn Iterator<Item = &str>> = if separator.is_empty() {
        // Without the empty parts that Rust adds before the first and after the last character.
        let starts = text.char_indices().map(|(at, _)| at);
        let mut ends = text.char_indices().map(|(at, _)| at).skip(1);
        Box::new(starts.take(max).enumerate().map(move |(nth, start)| {
            let end = ends.next().filter(|_| nth + 1 < max);
            &text[start..end.unwrap_or(text.len())]
        }))
    } else {
        Box::new(text.splitn(max, separator))
    };
    let mut list: Vec<Box<dyn Val>> = Vec::new();
    for part in parts {
        spend_making(ITEM_BYTES + part.len())?;
        list.push(Box::new(CelString::from(part.to_owned())));
    }
    Ok(CowVal::owned(CelList::from(list)))
}

/// The byte at which a character starts, or the text ends; `None` beyond the end.
fn byte_of(text: &str, character: usize) -> Option<usize> {
    let starts = text.char_indices().map(|(at, _)| at);
    starts.chain([text.len()]).nth(character)
}

/// The number of characters before a byte, as a value; -1 for none.
fn characters_before<'b, 'v>(text: &str, byte: Option<usize>) -> CowVal<'b, 'v> {
    let count = byte.map_or(-1, |byte| text[..byte].chars().count() as i64);
    CowVal::owned(CelInt::from(count))
}

/// The byte from which a search starts, if one is given.
///
/// # Errors
/// The place is not in the text.
fn search_start(function: &str, args: &[CowVal<'_, '_>]) -> Result<Option<usize>, ExecutionError> {
    let (text, part) = (text(args, 0), text(args, 1));
    spend_reading(text.len().saturating_mul(2).saturating_add(part.len()))?;
    let Some(place) = integer(args, 2) else {
        return Ok(None);
    };
    let outside =
        || ExecutionError::function_error(function, format!("index out of range: {place}"));
    let byte = usize::try_from(place)
        .ok()
        .and_then(|place| byte_of(text, place));
    match byte {
        Some(byte) if byte < text.len() || part.is_empty() => Ok(Some(byte)),
        None if part.is_empty() && place > 0 => Ok(Some(text.len())),
        _ => Err(outside()),
    }
}

fn index_of<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let start = search_start("indexOf", &args)?.unwrap_or(0);
    let (text, part) = (text(&args, 0), text(&args, 1));
    let found = text[start..].find(part).map(|at| start + at);
    Ok(characters_before(text, found))
}

/// Finds the last occurrence that starts at or before the given character.
fn last_index_of<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let start = search_start("lastIndexOf", &args)?;
    let (text, part) = (text(&args, 0), text(&args, 1));
    // An occurrence that starts there ends before the next character's start.
    let end = start.map_or(text.len(), |start| {
        text.floor_char_boundary(start + part.len())
    });
    Ok(characters_before(text, text[..end].rfind(part)))
}

/// Matches a pattern of the source, which was checked.
fn matches_literal<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    spend_reading(text(&args, 0).len())?;
    matches_regex(text(&args, 0), text(&args, 1), LITERAL_REGEX_BYTES_MAX)
}

/// Matches a pattern that an expression made, perhaps from a message.
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (text, pattern) = (text(&args, 0), text(&args, 1));
    let steps = (text.len() as u64).saturating_mul(FOREIGN_STEPS_PER_BYTE);
    spend(steps)?;
    spend_reading(pattern.len())?;
    matches_regex(text, pattern, FOREIGN_REGEX_BYTES_MAX)
}

fn matches_regex<'b, 'v>(text: &str, pattern: &str, bytes_max: usize) -> Outcome<'b, 'v> {
    thread_local! {
        static REGEXES: RefCell<HashMap<Box<str>, Regex>> = RefCell::default();
    }
    let is_match = REGEXES.with_borrow_mut(|regexes| {
        if let Some(regex) = regexes.get(pattern) {
            return Ok(regex.is_match(text));
        }
        spend(REGEX_STEPS)?;
        let regex = compiled(pattern, bytes_max)
            .map_err(|error| ExecutionError::function_error("matches", error))?;
        if regexes.len() >= REGEXES_MAX {
            regexes.clear();
        }
        let is_match = regex.is_match(text);
        regexes.insert(pattern.into(), regex);
        Ok(is_match)
    })?;
    Ok(CowVal::owned(CelBool::from(is_match)))
}
