//! Splits Rust into code, comments and string literals.
//!
//! A small lexer: it knows enough of Rust to find where comments and literals begin and end.

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One line of a comment, without its marks.
    Comment,
    /// The inside of a string literal.
    Text,
    /// An identifier, keyword or number.
    Word,
    /// Any other single character that isn't white space.
    Sign,
}

/// A token and the line that it starts on, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// Returns all tokens of a Rust file.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.at < source.len() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    /// Reads one token, or one character of white space.
    fn step(&mut self) {
        let rest = &self.source[self.at..];
        let first = rest.chars().next().expect("the end isn't reached");
        if rest.starts_with("//") {
            self.comment(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.comment(block_comment(rest));
        } else if let Some((open, close)) = raw_string(rest) {
            self.text(open, &close);
        } else if first == '"' {
            self.string();
        } else if first == '\'' {
            self.advance(character(rest));
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            self.push(Kind::Word, end.unwrap_or(rest.len()));
        } else if first.is_whitespace() {
            self.advance(first.len_utf8());
        } else {
            self.push(Kind::Sign, first.len_utf8());
        }
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.at += bytes;
    }

    fn push(&mut self, kind: Kind, bytes: usize) {
        let text = &self.source[self.at..self.at + bytes];
        let line = self.line;
        self.tokens.push(Token { kind, text, line });
        self.advance(bytes);
    }

    /// Pushes each line of a comment, without the marks at its ends.
    fn comment(&mut self, bytes: usize) {
        let whole = &self.source[self.at..self.at + bytes];
        for (nth, line) in whole.lines().enumerate() {
            let text = line
                .trim()
                .trim_start_matches(['/', '*', '!'])
                .trim_end_matches("*/");
            self.tokens.push(Token {
                kind: Kind::Comment,
                text: text.trim(),
                line: self.line + nth,
            });
        }
        self.advance(bytes);
    }

    /// Pushes a literal without escapes, from `open` bytes on until its closing mark.
    fn text(&mut self, open: usize, close: &str) {
        self.advance(open);
        let rest = &self.source[self.at..];
        self.push(Kind::Text, rest.find(close).unwrap_or(rest.len()));
        let closing = close.len().min(self.source.len() - self.at);
        self.advance(closing);
    }

    fn string(&mut self) {
        self.advance(1);
        let rest = &self.source[self.at..];
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        self.push(Kind::Text, end.unwrap_or(rest.len()));
        let closing = 1.min(self.source.len() - self.at);
        self.advance(closing);
    }
}

/// Returns the length of a block comment; block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at.min(rest.len())
}

/// Returns the length of a raw string's opening mark, and its closing mark.
fn raw_string(rest: &str) -> Option<(usize, String)> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix) && rest[prefix.len()..].starts_with(['"', '#']))?;
    let hashes = rest[prefix.len()..]
        .chars()
        .take_while(|c| *c == '#')
        .count();
    let open = prefix.len() + hashes;
    rest[open..]
        .starts_with('"')
        .then(|| (open + 1, format!("\"{}", "#".repeat(hashes))))
}

/// Returns the length of a character literal, or of the quote that starts a lifetime.
fn character(rest: &str) -> usize {
    let inside = &rest[1..];
    if inside.starts_with('\\') {
        let end = inside[2..].find('\'').expect("a literal is closed");
        return end + 4;
    }
    let one = inside.chars().next().map_or(0, char::len_utf8);
    if inside[one..].starts_with('\'') {
        return one + 2;
    }
    1
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let source = "/// Doc \"x\"\nfn f<'a>(c: char) { g('\"', '\\'', \"a \\\" b\"); } // end\nr#\"raw \"q\"\"#";
    let found: Vec<(Kind, &str, usize)> = tokens(source)
        .into_iter()
        .filter(|token| token.kind != Kind::Sign && token.kind != Kind::Word)
        .map(|token| (token.kind, token.text, token.line))
        .collect();
    assert_eq!(
        found,
        [
            (Kind::Comment, "Doc \"x\"", 1),
            (Kind::Text, "a \\\" b", 2),
            (Kind::Comment, "end", 2),
            (Kind::Text, "raw \"q\"", 3),
        ]
    );
}
