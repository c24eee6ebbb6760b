//! Fingerprints of errors: letters with the same failure get the same one.
//!
//! The shape of an error is its text without the parts that differ between messages: numbers,
//! ids, quoted values, paths and addresses become `#`. Words and quoted phrases stay. This is a
//! heuristic for any language; it prefers too few groups to too many.

use sha2::{Digest, Sha256};

/// Maximum length of a quoted value. A longer quoted text stays.
const VALUE_BYTES_MAX: usize = 512;
/// Minimum length of a hexadecimal id without digits from 0 to 9.
const HEX_ID_BYTES_MIN: usize = 8;

/// The fingerprint of an error: 16 hexadecimal digits.
pub(crate) fn fingerprint(service: &str, reason: &str, error: &str) -> String {
    let mut hash = Sha256::new();
    for part in [service, reason, &shape_of(error)] {
        hash.update(part.as_bytes());
        hash.update([0xff]);
    }
    let digest = hash.finalize();
    let digits = digest[..8].iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// The text without numbers, ids, quoted values, paths and addresses.
fn shape_of(error: &str) -> String {
    let mut shape = Shape(String::with_capacity(error.len()));
    let mut before = None;
    let mut rest = error;
    while let Some(next) = rest.chars().next() {
        let token = value_in_quotes(before, rest)
            .or_else(|| address(rest))
            .or_else(|| path(before, rest))
            .or_else(|| word(before, rest));
        let length = match token {
            Some(Token::Value(length)) => {
                shape.placeholder();
                length
            }
            Some(Token::Quoted(length)) => {
                shape.0.push(next);
                shape.placeholder();
                shape.0.push(next);
                length
            }
            Some(Token::Path(length)) => {
                shape.0.push('/');
                shape.placeholder();
                length
            }
            Some(Token::Word(length)) => {
                shape.0.push_str(&rest[..length]);
                length
            }
            None => {
                shape.punctuation(next);
                next.len_utf8()
            }
        };
        before = rest[..length].chars().next_back();
        rest = &rest[length..];
    }
    shape.0
}

/// The token at the start of a text, with its length in bytes.
enum Token {
    /// A number, an id or an address.
    Value(usize),
    /// A value in quotes.
    Quoted(usize),
    /// A path, with its slash.
    Path(usize),
    /// A word that stays.
    Word(usize),
}

struct Shape(String);

impl Shape {
    /// Adds `#` for a value. The parts of a number, a time or a list share one `#`, since their
    /// count differs, too.
    fn placeholder(&mut self) {
        const BETWEEN: [&str; 6] = ["#.", "#,", "#:", "#/", "#-", "#, "];
        match BETWEEN.iter().find(|end| self.0.ends_with(**end)) {
            Some(end) => self.0.truncate(self.0.len() - end.len() + 1),
            None => self.0.push('#'),
        }
    }

    /// Adds a character between words. Several white spaces become one.
    fn punctuation(&mut self, mark: char) {
        match mark.is_whitespace() {
            true if self.0.ends_with(' ') => {}
            true => self.0.push(' '),
            false => self.0.push(mark),
        }
    }
}

fn is_word_character(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

/// The length in bytes of the longest start with such characters.
fn span(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// `"abc"` or `'abc'`. The words of a quoted phrase stay, since they tell the failure.
fn value_in_quotes(before: Option<char>, text: &str) -> Option<Token> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    // An apostrophe is no quote.
    if before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c.is_whitespace() || at > VALUE_BYTES_MAX {
            return None;
        }
        let ends = c == quote && !escaped;
        let after = text[at + c.len_utf8()..].chars().next();
        if ends && !after.is_some_and(char::is_alphanumeric) {
            return Some(Token::Quoted(at + 1));
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// `ada@example.com`.
fn address(text: &str) -> Option<Token> {
    let is_name = |c: char| is_word_character(c) || matches!(c, '.' | '+');
    text.starts_with(char::is_alphanumeric).then_some(())?;
    let name = span(text, is_name);
    let host = text[name..].strip_prefix('@')?;
    host.starts_with(char::is_alphanumeric).then_some(())?;
    // A full stop at the end belongs to the sentence.
    let host = host[..span(host, is_name)].trim_end_matches('.');
    Some(Token::Value(name + 1 + host.len()))
}

/// `/data/in/a.json`, or the path of a URL, whose host stays.
fn path(before: Option<char>, text: &str) -> Option<Token> {
    let in_word = before.is_some_and(|c| is_word_character(c) && !c.is_numeric());
    let is_path = |c: char| !c.is_whitespace() && !"\"'`<>()[]{},;:|".contains(c);
    let rest = text.strip_prefix('/')?;
    // `read/write` is no path, and the slashes of `http://host` start none.
    let starts_path = |c: char| is_path(c) && c != '/';
    if !rest.starts_with(starts_path) || before == Some('/') {
        return None;
    }
    let length = 1 + span(rest, is_path);
    let segments = text[..length].matches('/').count();
    (!in_word || segments > 1).then_some(Token::Path(length))
}

/// A word, or a number with its sign.
fn word(before: Option<char>, text: &str) -> Option<Token> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = text.len() - unsigned.len();
    if sign > 0 {
        let number = unsigned.starts_with(char::is_numeric);
        (number && !before.is_some_and(is_word_character)).then_some(())?;
    }
    unsigned
        .starts_with(|c| is_word_character(c) && c != '-')
        .then_some(())?;
    let length = span(unsigned, is_word_character);
    let word = &unsigned[..length];
    let digits = word.trim_matches('-').replace('-', "");
    let is_hex = digits.len() >= HEX_ID_BYTES_MIN && digits.bytes().all(|c| c.is_ascii_hexdigit());
    Some(match word.contains(char::is_numeric) || is_hex {
        true => Token::Value(sign + length),
        false => Token::Word(length),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_leaves_out_numbers_ids_quoted_values_paths_and_addresses() {
        for (error, shape) in [
            ("no stock", "no stock"),
            (
                "order 17 of 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b: no stock",
                "order # of #: no stock",
            ),
            ("balance is -1,234.50, not +7", "balance is #, not #"),
            ("took 1.5s, at most 250ms", "took #, at most #"),
            ("at 2026-11-22T23:32:03.123Z it failed", "at # it failed"),
            (
                "10.0.0.17:5672 refused; [::1]:80 refused",
                "# refused; [::#]:# refused",
            ),
            ("items 1, 2, 3 are gone", "items # are gone"),
            ("customer cus_NffrFeUf2Hib", "customer #"),
            ("object deadbeef, a decade", "object #, a decade"),
            ("can't find sku \"abc\"", "can't find sku \"#\""),
            ("unknown 'abc': it isn't 'x'", "unknown '#': it isn't '#'"),
            (
                "said \"no such table\" twice",
                "said \"no such table\" twice",
            ),
            (
                "said \"order 17 is gone\" twice",
                "said \"order # is gone\" twice",
            ),
            (r#"key "a\"b" is odd"#, "key \"#\" is odd"),
            ("an \"open quote", "an \"open quote"),
            (
                "missing field `sku` at line 1 column 20",
                "missing field `sku` at line # column #",
            ),
            ("can't read /data/in/a.json: gone", "can't read /#: gone"),
            ("can't read `/data/b`", "can't read `/#`"),
            (
                "GET https://api.example.com/orders/17?x=y failed",
                "GET https://api.example.com/# failed",
            ),
            (
                "GET http://api.example.com failed",
                "GET http://api.example.com failed",
            ),
            ("read/write error", "read/write error"),
            ("can't reach ada.lovelace+x@example.com.", "can't reach #."),
            ("first line\n\t second", "first line second"),
            ("Größe 5 µm", "Größe # µm"),
            ("", ""),
        ] {
            assert_eq!(shape_of(error), shape, "{error}");
        }
    }

    #[test]
    fn the_shape_of_a_shape_is_the_same() {
        for error in ["order 17: no stock", "at 10.0.0.1:80 \"x\" /a/b y@z.de"] {
            let shape = shape_of(error);
            assert_eq!(shape_of(&shape), shape);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_shape_that_is_at_most_twice_as_long(error in "\\PC{0,200}") {
            let shape = shape_of(&error);
            // A path becomes `/#`.
            proptest::prop_assert!(shape.len() <= 2 * error.len());
        }
    }
}
