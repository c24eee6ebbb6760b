//! The parts of a payload that expressions read. The rest is checked, but no values are made
//! of it.

use std::collections::BTreeMap;

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::rewrite::{any, parts};

/// The parts of a value that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reads {
    Everything,
    /// Only these fields, if the value is an object. Of a list only its type is read.
    Fields(BTreeMap<Box<str>, Reads>),
}

impl Reads {
    pub(super) fn nothing() -> Self {
        Self::Fields(BTreeMap::new())
    }

    /// The parts of `msg` that an expression of the source reads.
    pub(super) fn of(expression: &IdedExpr) -> Self {
        let mut reads = Self::nothing();
        // A variable of a loop may have the name of the payload.
        let hides_msg = any(expression, &|part| match part {
            Expr::Comprehension(each) => each.iter_var == "msg" || each.accu_var == "msg",
            _ => false,
        });
        match hides_msg {
            true => reads = Self::Everything,
            false => reads.collect(expression),
        }
        reads
    }

    fn collect(&mut self, expression: &IdedExpr) {
        match path(expression) {
            Some(path) => self.add(&path),
            None => parts(expression, &mut |part| self.collect(part)),
        }
    }

    fn add(&mut self, path: &[&str]) {
        match (self, path) {
            (Self::Everything, _) => {}
            (reads, []) => *reads = Self::Everything,
            (Self::Fields(fields), [first, rest @ ..]) => fields
                .entry((*first).into())
                .or_insert_with(Self::nothing)
                .add(rest),
        }
    }

    /// The parts that one of two reads.
    pub(super) fn and(mut self, other: &Self) -> Self {
        match (&mut self, other) {
            (Self::Everything, _) => {}
            (_, Self::Everything) => self = Self::Everything,
            (Self::Fields(fields), Self::Fields(others)) => {
                for (name, other) in others {
                    let own = fields.remove(name).unwrap_or_else(Self::nothing);
                    fields.insert(name.clone(), own.and(other));
                }
            }
        }
        self
    }

    /// Whether everything that the other reads is read.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everything, _) => true,
            (Self::Fields(_), Self::Everything) => false,
            (Self::Fields(fields), Self::Fields(others)) => others
                .iter()
                .all(|(name, other)| fields.get(name).is_some_and(|own| own.covers(other))),
        }
    }

    /// How much of a field is read; `None` for nothing.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Everything => Some(self),
            Self::Fields(fields) => fields.get(name),
        }
    }
}

/// The names of fields from `msg` down to the value of an expression, if it is such a value.
fn path(expression: &IdedExpr) -> Option<Vec<&str>> {
    let mut path = match &expression.expr {
        Expr::Ident(name) => return (name == "msg").then(Vec::new),
        Expr::Select(select) => path(&select.operand)?,
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [of, _]) => path(of)?,
            _ => return None,
        },
        _ => return None,
    };
    path.push(match &expression.expr {
        Expr::Select(select) => &select.field,
        Expr::Call(call) => match &call.args[1].expr {
            Expr::Literal(LiteralValue::String(name)) => name.inner(),
            _ => return None,
        },
        _ => return None,
    });
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::compile::compile;

    fn reads(source: &str) -> Reads {
        let compiled = compile(source, None).map_err(|text| format!("{source}: {text}"));
        (*compiled.unwrap().reads).clone()
    }

    fn fields<const N: usize>(fields: [(&str, Reads); N]) -> Reads {
        Reads::Fields(fields.map(|(name, reads)| (name.into(), reads)).into())
    }

    #[test]
    fn an_expression_reads_the_fields_that_it_names() {
        use Reads::Everything;
        for (source, expected) in [
            ("meta.type == 'x'", fields([])),
            ("msg.a", fields([("a", Everything)])),
            (
                "msg.a.b == 1 || msg.a['c'] == 2",
                fields([("a", fields([("b", Everything), ("c", Everything)]))]),
            ),
            (
                "msg.a.b == 1 && size(msg.a) == 2",
                fields([("a", Everything)]),
            ),
            (
                "has(msg.a.b) ? msg.?a.?c.orValue(1) : msg[?'d']",
                fields([
                    ("a", fields([("b", Everything), ("c", Everything)])),
                    ("d", Everything),
                ]),
            ),
            ("msg.l[0].a", fields([("l", Everything)])),
            (
                "msg.l.exists(i, i.a == msg.b)",
                fields([("l", Everything), ("b", Everything)]),
            ),
            ("msg[msg.k]", Everything),
            ("msg", Everything),
            ("size(msg) > 1", Everything),
            ("[msg.a].map(msg, msg.b)", Everything),
            (
                "{'a': msg.a.b}.a",
                fields([("a", fields([("b", Everything)]))]),
            ),
        ] {
            assert_eq!(reads(source), expected, "{source}");
        }
    }

    #[test]
    fn parts_are_united_and_compared() {
        let (a, b, ab) = (
            reads("msg.x.a"),
            reads("msg.x.b"),
            reads("msg.x.a + msg.x.b"),
        );
        assert_eq!(a.clone().and(&b), ab);
        assert!(ab.covers(&a) && ab.covers(&b) && !a.covers(&ab) && !a.covers(&b));
        let x = reads("msg.x");
        assert!(x.covers(&ab) && !ab.covers(&x) && Reads::Everything.covers(&x));
        assert_eq!(ab.and(&x), x);
        assert!(a.covers(&Reads::nothing()));
    }
}
