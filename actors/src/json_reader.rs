//! Reads JSON token by token, for readers that must not change numbers.
//!
//! The reader accepts exactly the texts that `serde_json` reads as a value: no numbers beyond
//! the range of a double, no halves of a surrogate pair, at most [`DEPTH_MAX`] levels. It
//! differs in one point: a number stays text, so that its reader decides how to represent it.

use std::borrow::Cow;

/// Maximum nesting, the same as `serde_json`'s.
pub(crate) const DEPTH_MAX: usize = 127;

/// Digits that are in range without an exponent.
const DIGITS_IN_RANGE: usize = 300;

/// The kind of the next value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    True,
    False,
    Number,
    Text,
    List,
    Object,
}

/// The place of the first byte that can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    at: usize,
    reason: &'static str,
}

/// A number as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NumberText<'a> {
    pub(crate) text: &'a str,
    /// Whether it has neither a fraction nor an exponent.
    pub(crate) is_integer: bool,
}

/// A position in a text.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Read<T> = Result<T, Unreadable>;

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// The kind of the next value, whose first byte comes next afterwards.
    pub(crate) fn kind(&mut self) -> Read<Kind> {
        self.skip_space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::List),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'n') => Ok(Kind::Null),
            Some(b't') => Ok(Kind::True),
            Some(b'f') => Ok(Kind::False),
            _ => Err(self.unreadable("a value was expected")),
        }
    }

    /// Reads `null`, `true` or `false`.
    pub(crate) fn word(&mut self, word: &str) -> Read<()> {
        if !self.bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.unreadable("a value was expected"));
        }
        self.at += word.len();
        Ok(())
    }

    pub(crate) fn number(&mut self) -> Read<NumberText<'a>> {
        let from = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut is_integer = true;
        if self.byte() == Some(b'.') {
            is_integer = false;
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(self.byte(), Some(b'e' | b'E'));
        if has_exponent {
            is_integer = false;
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[from..self.at];
        let may_be_large = has_exponent || text.len() > DIGITS_IN_RANGE;
        if may_be_large && !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(self.unreadable("a number is out of the range of a double"));
        }
        Ok(NumberText { text, is_integer })
    }

    /// Reads a text, without copying it if it has no escapes.
    pub(crate) fn string(&mut self) -> Read<Cow<'a, str>> {
        let from = self.at;
        let has_escapes = self.skip_string()?;
        let inner = &self.text[from + 1..self.at - 1];
        if !has_escapes {
            return Ok(inner.into());
        }
        serde_json::from_str::<String>(&self.text[from..self.at])
            .map(Cow::Owned)
            .map_err(|_| self.unreadable("an escape can't be read"))
    }

    /// Enters an object or a list. Returns whether it has an entry.
    pub(crate) fn enter(&mut self, close: u8) -> Read<bool> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.unreadable("it is nested too deep"));
        }
        self.skip_space();
        if self.byte() == Some(close) {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        Ok(true)
    }

    /// Goes on after an entry. Returns whether another one comes.
    pub(crate) fn next(&mut self, close: u8) -> Read<bool> {
        self.skip_space();
        match self.byte() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            _ => Err(self.unreadable("a comma or the end of a list or object was expected")),
        }
    }

    /// Reads the name of an entry, and the colon after it.
    pub(crate) fn name(&mut self) -> Read<Cow<'a, str>> {
        self.before_name()?;
        let name = self.string()?;
        self.colon()?;
        Ok(name)
    }

    /// Reads a value and drops it.
    pub(crate) fn skip(&mut self) -> Read<()> {
        match self.kind()? {
            Kind::Null => self.word("null"),
            Kind::True => self.word("true"),
            Kind::False => self.word("false"),
            Kind::Number => self.number().map(drop),
            Kind::Text => self.skip_string().map(drop),
            Kind::List => {
                let mut more = self.enter(b']')?;
                while more {
                    self.skip()?;
                    more = self.next(b']')?;
                }
                Ok(())
            }
            Kind::Object => {
                let mut more = self.enter(b'}')?;
                while more {
                    self.before_name()?;
                    self.skip_string()?;
                    self.colon()?;
                    self.skip()?;
                    more = self.next(b'}')?;
                }
                Ok(())
            }
        }
    }

    /// Only whitespace may be left.
    pub(crate) fn end(mut self) -> Read<()> {
        self.skip_space();
        match self.byte() {
            None => Ok(()),
            Some(_) => Err(self.unreadable("there is more after the value")),
        }
    }

    fn before_name(&mut self) -> Read<()> {
        self.skip_space();
        match self.byte() {
            Some(b'"') => Ok(()),
            _ => Err(self.unreadable("a name was expected")),
        }
    }

    fn colon(&mut self) -> Read<()> {
        self.skip_space();
        if self.byte() != Some(b':') {
            return Err(self.unreadable("a colon was expected"));
        }
        self.at += 1;
        Ok(())
    }

    fn digits(&mut self) -> Read<()> {
        let from = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from {
            return Err(self.unreadable("a digit was expected"));
        }
        Ok(())
    }

    /// Goes past the string that starts here. Returns whether it has escapes.
    fn skip_string(&mut self) -> Read<bool> {
        let bytes = self.bytes();
        let mut has_escapes = false;
        self.at += 1;
        loop {
            self.at = plain_until(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.escape()?;
                }
                _ => return Err(self.unreadable("a text has no end, or a control character")),
            }
        }
    }

    fn escape(&mut self) -> Read<()> {
        match self.bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.hex()?;
                match unit {
                    0xd800..=0xdbff if matches!(self.hex()?, 0xdc00..=0xdfff) => Ok(()),
                    0xd800..=0xdfff => Err(self.unreadable("half of a surrogate pair")),
                    _ => Ok(()),
                }
            }
            _ => Err(self.unreadable("an escape can't be read")),
        }
    }

    /// Reads `\u` and four hexadecimal digits.
    fn hex(&mut self) -> Read<u32> {
        let escape = self.bytes().get(self.at..self.at + 6);
        let digits = escape.and_then(|escape| escape.strip_prefix(b"\\u"));
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let unit = digits.and_then(|digits| {
            digits
                .iter()
                .try_fold(0, |unit, byte| Some((unit << 4) | digit(byte)?))
        });
        self.at += 6;
        unit.ok_or_else(|| self.unreadable("an escape can't be read"))
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn byte(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn unreadable(&self, reason: &'static str) -> Unreadable {
        Unreadable {
            at: self.at.min(self.text.len()),
            reason,
        }
    }
}

impl Unreadable {
    /// Describes the error, in the words of `serde_json`, which knows more about syntax.
    pub(crate) fn describe(&self, text: &str) -> String {
        match serde_json::from_str::<serde_json::Value>(text) {
            Err(error) => error.to_string(),
            Ok(_) => format!("{} at byte {}", self.reason, self.at),
        }
    }
}

/// The index of the first quote, backslash or control character from `at` on.
pub(crate) fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 128;
    // A byte of the result has its high bit set if that byte of the word is zero. Bytes above
    // the lowest such byte may be wrong, which doesn't matter: a word with a hit is searched.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("the chunk has 8 bytes"));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let hits = control | quote | backslash;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(is_special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn reads(text: &str) -> bool {
        let mut reader = Reader::new(text);
        reader.skip().and_then(|()| reader.end()).is_ok()
    }

    #[test]
    fn the_reader_accepts_what_can_be_read_as_a_value_and_nothing_else() {
        let texts = [
            "null",
            "true",
            "false",
            " 1 ",
            "-0",
            "0.5e-3",
            "1E+2",
            "\"a\"",
            "[]",
            "{}",
            "[1,[2]]",
            r#"{"a":1,"a":{"b":[]}}"#,
            r#""\ud83d\ude00 \u00e4\n""#,
            "\"\u{7f}ä€😀\"",
            "",
            " ",
            "nul",
            "nulls",
            "+1",
            "01",
            "1.",
            ".5",
            "1e",
            "1e400",
            "-1e400",
            "1e-400",
            "--1",
            "-",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud83d\"",
            "\"\\ude00\"",
            "\"\\ud83d\\n\"",
            "\"\\ud83d\\ud83d\"",
            "\"a\nb\"",
            "\"\u{1f}\"",
            "[",
            "]",
            "{",
            "}",
            "{]",
            "[}",
            "1 2",
            "\u{feff}1",
            "NaN",
            "Infinity",
            "'a'",
            "/**/1",
            "1//",
            "\u{a0}1",
        ];
        for text in texts {
            let expected = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(reads(text), expected, "{text:?}");
        }
        for levels in [126, 127, 128, 129, 10_000] {
            let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            assert_eq!(reads(&text), levels <= DEPTH_MAX, "{levels}");
            let text = format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
            assert_eq!(reads(&text), levels <= DEPTH_MAX, "{levels}");
        }
        let digits = "9".repeat(309);
        assert!(!reads(&digits) && reads(&digits[1..]));
    }

    #[test]
    fn the_cases_of_json_test_suite_are_judged_as_it_says_and_as_serde_json_judges_them() {
        let mut cases = 0;
        for line in include_str!("../tests/json/json-parsing.jsonl").lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| case[name].as_str().unwrap();
            let bytes = BASE64_STANDARD.decode(field("base64")).unwrap();
            let accepted = std::str::from_utf8(&bytes).is_ok_and(reads);
            let expected = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
            assert_eq!(accepted, expected, "{}", field("name"));
            match &field("name")[..2] {
                "y_" => assert!(accepted, "{}", field("name")),
                "n_" => assert!(!accepted, "{}", field("name")),
                _ => {}
            }
            cases += 1;
        }
        assert_eq!(cases, 316);
    }

    #[test]
    fn damaged_texts_are_judged_as_serde_json_judges_them() {
        let text = r#"{"a\u00e4":[1.5e3,-2,{"b":"x\\\"y","c":null}],"long":"0123456789abcdef\n","t":true}"#;
        let mut random = fastrand::Rng::with_seed(7);
        let marks = br#"{}[]:,"\u0e-+. ntf1"#;
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes.insert(at, marks[random.usize(..marks.len())]),
                    _ => bytes[at] = marks[random.usize(..marks.len())],
                }
            }
            let text = String::from_utf8(bytes).unwrap();
            let expected = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(reads(&text), expected, "{text}");
            accepted += u32::from(expected);
        }
        assert!(accepted > 1000, "{accepted}");
    }

    #[test]
    fn special_bytes_are_found_at_every_place() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for at in 0..40 {
                let mut bytes = vec![b' '; 40];
                bytes[(at + 1).min(39)] = 0xff;
                bytes[at] = special;
                assert_eq!(plain_until(&bytes, 0), at);
            }
        }
        assert_eq!(plain_until("äöü€😀 !#[]".repeat(5).as_bytes(), 0), 90);
    }
}
