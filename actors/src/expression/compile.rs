//! Compiles the text of an expression.
//!
//! Owns the limits that keep parser and evaluation within their stacks, and the texts of
//! syntax errors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::parser::ParseError;
use cel::{Env, Program, extensions};

use super::names::Names;
use super::reads::Reads;
use super::{functions, header_names, operators, rewrite};

/// Maximum bytes of an expression.
const SOURCE_BYTES_MAX: usize = 4 * 1024;
/// Maximum nesting of brackets: the parser recurses for each.
const BRACKETS_MAX: usize = 24;
/// Maximum nesting of operations: the evaluation recurses for each, on a thread whose stack
/// size is not ours to choose.
pub(super) const DEPTH_MAX: usize = 32;
/// Stack of the parser: generated code with large frames.
const PARSER_STACK_BYTES: usize = 32 << 20;

/// A compiled expression, and which variables it uses.
pub(super) struct Compiled {
    pub(super) source: Box<str>,
    /// With our operators in place of the crate's.
    pub(super) expression: IdedExpr,
    pub(super) uses_msg: bool,
    /// The parts of `msg` that it reads.
    pub(super) reads: Arc<Reads>,
    pub(super) uses_meta: bool,
}

/// The language: CEL's standard library and its strings extension.
pub(super) fn environment() -> Arc<Env> {
    static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings)
            .expect("the strings extension declares nothing that is there already");
        operators::declare(&mut env).expect("no source can name our operators");
        functions::declare(&mut env).expect("no source can name our functions");
        Arc::new(env)
    });
    LANGUAGE.clone()
}

/// Compiles an expression, which may use a variable besides `msg` and `meta`.
pub(super) fn compile(source: &str, extra: Option<&'static str>) -> Result<Compiled, String> {
    if source.trim().is_empty() {
        return Err("the expression is empty".to_owned());
    }
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!(
            "the expression is longer than {SOURCE_BYTES_MAX} bytes"
        ));
    }
    if nesting(&outside_quotes(source)) > BRACKETS_MAX {
        return Err(format!(
            "the expression has more than {BRACKETS_MAX} nested brackets"
        ));
    }
    let env = environment();
    let program = parse(&env, source)?;
    let [uses_msg, uses_meta] = Names::new(env, source, &program, extra).resolve()?;
    let mut expression = program.expression().clone();
    let reads = Arc::new(Reads::of(&expression));
    header_names::ignore_case(&mut expression);
    rewrite::rewrite(&mut expression);
    Ok(Compiled {
        source: source.into(),
        expression,
        uses_msg,
        reads,
        uses_meta,
    })
}

/// Parses on a thread with a large stack, and catches panics, so that no input can end the
/// process.
fn parse(env: &Arc<Env>, source: &str) -> Result<Program, String> {
    let parse = || {
        let program = catch_unwind(AssertUnwindSafe(|| env.compile(source)))
            .map_err(|_| format!("the expression {source:?} can't be parsed"))?
            .map_err(|errors| syntax_error(source, errors.errors.first()))?;
        if depth(program.expression()) > DEPTH_MAX {
            return Err(format!(
                "the expression has more than {DEPTH_MAX} nested operations: \
                 use a list, such as msg.a in ['x', 'y'], or several rules"
            ));
        }
        Ok(program)
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("expression".to_owned())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, parse)
            .map_err(|error| format!("can't start a thread to parse an expression: {error}"))?
            .join()
            .unwrap_or_else(|_| Err(format!("the expression {source:?} can't be parsed")))
    })
}

fn depth(expression: &IdedExpr) -> usize {
    let deepest = |expressions: &[IdedExpr]| expressions.iter().map(depth).max().unwrap_or(0);
    1 + match &expression.expr {
        Expr::Select(select) => depth(&select.operand),
        Expr::Call(call) => {
            let target = call.target.as_deref().map_or(0, depth);
            target.max(deepest(&call.args))
        }
        Expr::List(list) => deepest(&list.elements),
        Expr::Map(map) => entries_depth(map.entries.iter().map(|entry| &entry.expr)),
        Expr::Struct(fields) => entries_depth(fields.entries.iter().map(|entry| &entry.expr)),
        Expr::Comprehension(each) => [
            &each.iter_range,
            &each.accu_init,
            &each.loop_cond,
            &each.loop_step,
            &each.result,
        ]
        .into_iter()
        .map(depth)
        .max()
        .unwrap_or(0),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}

fn entries_depth<'a>(entries: impl Iterator<Item = &'a EntryExpr>) -> usize {
    let of = |entry: &EntryExpr| match entry {
        EntryExpr::MapEntry(entry) => depth(&entry.key).max(depth(&entry.value)),
        EntryExpr::StructField(field) => depth(&field.value),
    };
    entries.map(of).max().unwrap_or(0)
}

/// The deepest nesting of brackets.
fn nesting(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => now += 1,
            b')' | b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

fn syntax_error(source: &str, error: Option<&ParseError>) -> String {
    let Some(error) = error else {
        return format!("{source:?} is not an expression");
    };
    let (line, column) = error.pos;
    let place = match line {
        0 | 1 => format!("column {column}"),
        _ => format!("line {line}, column {column}"),
    };
    let message = error.msg.trim_start_matches("Syntax error: ");
    let mut text = format!("not an expression: {message} at {place}");
    if let Some(hint) = syntax_hint(source) {
        text.push_str(": ");
        text.push_str(hint);
    }
    text
}

/// A hint for operators of other languages.
fn syntax_hint(source: &str) -> Option<&'static str> {
    let outside = outside_quotes(source);
    let words: Vec<&str> = outside
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    let bytes = outside.as_bytes();
    let single = (0..bytes.len()).any(|at| {
        bytes[at] == b'='
            && bytes.get(at + 1) != Some(&b'=')
            && !(at > 0 && matches!(bytes[at - 1], b'=' | b'!' | b'<' | b'>'))
    });
    if single {
        Some("write == to compare")
    } else if outside.contains("===") {
        Some("write ==, not ===")
    } else if words.contains(&"and") {
        Some("write && for and")
    } else if words.contains(&"or") {
        Some("write || for or")
    } else if words.contains(&"not") {
        Some("write ! for not")
    } else if words.contains(&"if") {
        Some("write condition ? a : b")
    } else {
        None
    }
}

/// The source with quoted parts replaced by spaces.
fn outside_quotes(source: &str) -> String {
    let mut quote = None;
    let mut escaped = false;
    source
        .chars()
        .map(|c| match quote {
            Some(open) => {
                if !escaped && c == open {
                    quote = None;
                }
                escaped = c == '\\' && !escaped;
                ' '
            }
            None => {
                if matches!(c, '\'' | '"') {
                    quote = Some(c);
                }
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(source: &str) -> Result<Compiled, String> {
        super::compile(source, None)
    }

    fn error(source: &str) -> String {
        match compile(source) {
            Ok(_) => panic!("{source:?} compiles"),
            Err(text) => text,
        }
    }

    #[test]
    fn an_error_names_the_place_and_gives_a_hint() {
        for (source, expected) in [
            ("", "the expression is empty"),
            ("msg.a = 1", "write == to compare"),
            ("msg.a === 1", "write ==, not ==="),
            ("msg.a and msg.b", "write && for and"),
            ("msg.a == 'and' or msg.b", "write || for or"),
            ("not msg.a", "write ! for not"),
            ("msg.a ==", "not an expression"),
            ("msg.a == 'x", "not an expression"),
            ("(msg.a", "not an expression"),
            (
                "mgs.a == 1",
                "there is no \"mgs\" at column 1 of the expression",
            ),
            ("msg.type == push", "there is no \"push\" at column 13"),
            ("'ä' == x", "there is no \"x\" at column 8"),
            ("meta.kind == 'x'", "meta has no \"kind\" at column"),
            (
                "msg.a.lowercase()",
                "there is no function \"lowercase\" at column",
            ),
            (
                "length(msg.a) > 1",
                "there is no function \"length\" at column",
            ),
            ("msg.all(x, y == 1)", "there is no \"y\""),
            ("[1].map(x, x) == x", "there is no \"x\""),
            ("strings.nothing('a')", "there is no \"strings\""),
            ("Point{x: 1}", "there are no message types"),
        ] {
            let text = error(source);
            assert!(text.contains(expected), "{source}: {text}");
        }
        assert!(
            error("msg.a =").contains("column 7"),
            "{}",
            error("msg.a =")
        );
    }

    #[test]
    fn every_name_of_the_language_compiles() {
        for source in [
            "size(msg.a) > 0 && msg.a.size() > 0",
            "type(msg.a) == int || type(msg.a) == string",
            "int('1') + int(1.0) == 2 && double('1') == 1.0 && uint(1) == 1u",
            "msg.a.startsWith('x') && msg.a.endsWith('y') && msg.a.contains('z')",
            "msg.l.all(x, x > 1) && msg.l.exists_one(x, x == 2)",
            "msg.l.filter(x, x.b.exists(y, y == x.c)).map(x, x.c).join(',') == ''",
            "timestamp(msg.t) + duration('1h') > meta.time && meta.time.getFullYear() > 2000",
            "msg.a.matches('a+') && 'a' in msg && !(msg.b in [1, 2])",
            "msg.a.split('/')[0].replace('a', 'b').trim().substring(0, 1) == strings.quote('a')",
            "dyn(msg.a) == b'x' || bool('true')",
            "msg.?a.orValue(1) == 1",
        ] {
            if let Err(text) = compile(source) {
                panic!("{source}: {text}");
            }
        }
    }

    #[test]
    fn the_variables_that_an_expression_uses_are_known() {
        let uses = |source| {
            let compiled = compile(source).map_err(|text| format!("{source}: {text}"));
            let compiled = compiled.unwrap();
            (compiled.uses_msg, compiled.uses_meta)
        };
        assert_eq!(uses("true"), (false, false));
        assert_eq!(uses("msg.meta == 1"), (true, false));
        assert_eq!(uses("meta.type == 'msg'"), (false, true));
        assert_eq!(uses("has(msg.a) && has(meta.headers.b)"), (true, true));
        assert_eq!(uses("[1].exists(msg, msg == 1)"), (false, false));
    }

    #[test]
    fn odd_input_neither_panics_nor_overflows_the_stack() {
        let deep = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
        let allowed = format!("{}1{}", "(".repeat(BRACKETS_MAX), ")".repeat(BRACKETS_MAX));
        let long = format!("1{}", " + 1".repeat(900));
        let many = "!".repeat(4000);
        let lists = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        let ternary = "true ? 1 : ".repeat(300) + "1";
        let indexes = format!("msg{}", "[0]".repeat(1000));
        let fields = format!("msg{}", ".a".repeat(1500));
        let unclosed = "'(".repeat(1000);
        let odd = [
            deep.as_str(),
            allowed.as_str(),
            ternary.as_str(),
            indexes.as_str(),
            fields.as_str(),
            unclosed.as_str(),
            long.as_str(),
            many.as_str(),
            lists.as_str(),
            "\u{0}",
            "'\\u{110000}'",
            "'\\",
            "\"\\ud800\"",
            "1e999999",
            "99999999999999999999",
            "msg[",
            "has()",
            "has(1)",
            "msg.map(1, 2)",
            "\u{202e}msg",
            "`a`",
            "msg.`a`",
            "{1: }",
            "b'\\xzz'",
            "r'",
            "'''",
        ];
        for source in odd {
            // The test is that the call returns.
            let _outcome = compile(source).map(|_| ());
        }
        assert!(error(&"x".repeat(SOURCE_BYTES_MAX + 1)).contains("longer than"));
    }
}
