//! The shape of an error's text: what is left of it without what differs from one message
//! to the next. Letters of one shape failed alike.
//!
//! It is a heuristic that errs towards too few groups: numbers, ids, quoted values, paths
//! and addresses become `#`; words and quoted phrases stay. Knows no language.

/// A quoted text that is longer is no value.
const VALUE_BYTES_MAX: usize = 512;
/// A word of so many hexadecimal digits is an id, also if all of them are letters.
const HEX_ID_BYTES_MIN: usize = 8;

/// The text without numbers, ids, quoted values, paths and addresses.
pub(super) fn shape_of(error: &str) -> String {
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
                shape.blank();
                length
            }
            Some(Token::Quoted(length)) => {
                shape.0.push(next);
                shape.blank();
                shape.0.push(next);
                length
            }
            Some(Token::Path(length)) => {
                shape.0.push('/');
                shape.blank();
                length
            }
            Some(Token::Word(length)) => {
                shape.0.push_str(&rest[..length]);
                length
            }
            None => {
                shape.mark(next);
                next.len_utf8()
            }
        };
        before = rest[..length].chars().next_back();
        rest = &rest[length..];
    }
    shape.0
}

/// What stands at the beginning of a text, with its length in bytes.
enum Token {
    /// Differs from message to message.
    Value(usize),
    /// The same, in quotes.
    Quoted(usize),
    /// The same, and begins with a slash.
    Path(usize),
    /// Stays.
    Word(usize),
}

struct Shape(String);

impl Shape {
    /// Something that differs. Parts of one number, one time or one list are one: how many
    /// there are differs, too.
    fn blank(&mut self) {
        const BETWEEN: [&str; 6] = ["#.", "#,", "#:", "#/", "#-", "#, "];
        match BETWEEN.iter().find(|end| self.0.ends_with(**end)) {
            Some(end) => self.0.truncate(self.0.len() - end.len() + 1),
            None => self.0.push('#'),
        }
    }

    /// Something between words.
    fn mark(&mut self, mark: char) {
        match mark.is_whitespace() {
            true if self.0.ends_with(' ') => {}
            true => self.0.push(' '),
            false => self.0.push(mark),
        }
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

/// How many bytes at the beginning fulfil this.
fn span(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// `"abc"` or `'abc'`. A phrase in quotes says what is wrong: its words stay.
fn value_in_quotes(before: Option<char>, text: &str) -> Option<Token> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    // An apostrophe is none.
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
    let of_name = |c: char| is_of_word(c) || matches!(c, '.' | '+');
    text.starts_with(char::is_alphanumeric).then_some(())?;
    let name = span(text, of_name);
    let host = text[name..].strip_prefix('@')?;
    host.starts_with(char::is_alphanumeric).then_some(())?;
    // A full stop at the end is the sentence's.
    let host = host[..span(host, of_name)].trim_end_matches('.');
    Some(Token::Value(name + 1 + host.len()))
}

/// `/data/in/a.json`, also the one at the end of a URL: which host it was stays.
fn path(before: Option<char>, text: &str) -> Option<Token> {
    let in_word = before.is_some_and(|c| is_of_word(c) && !c.is_numeric());
    let of_path = |c: char| !c.is_whitespace() && !"\"'`<>()[]{},;:|".contains(c);
    let rest = text.strip_prefix('/')?;
    // `read/write` is none; `http://host` has two, and none of them begins one.
    let begins = |c: char| of_path(c) && c != '/';
    if !rest.starts_with(begins) || before == Some('/') {
        return None;
    }
    let length = 1 + span(rest, of_path);
    let segments = text[..length].matches('/').count();
    (!in_word || segments > 1).then_some(Token::Path(length))
}

/// A word, or a number with its sign.
fn word(before: Option<char>, text: &str) -> Option<Token> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = text.len() - unsigned.len();
    if sign > 0 {
        let number = unsigned.starts_with(char::is_numeric);
        (number && !before.is_some_and(is_of_word)).then_some(())?;
    }
    unsigned
        .starts_with(|c| is_of_word(c) && c != '-')
        .then_some(())?;
    let length = span(unsigned, is_of_word);
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
    fn what_differs_from_message_to_message_is_left_out() {
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
    fn a_shape_is_its_own_shape() {
        for error in ["order 17: no stock", "at 10.0.0.1:80 \"x\" /a/b y@z.de"] {
            let shape = shape_of(error);
            assert_eq!(shape_of(&shape), shape);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_one_and_it_is_hardly_longer(error in "\\PC{0,200}") {
            let shape = shape_of(&error);
            // A slash may be put before what stands for a path, never more.
            proptest::prop_assert!(shape.len() <= 2 * error.len());
        }
    }
}
