//! Looks up every name in an expression: variables, fields of the envelope, functions.
//!
//! CEL itself looks names up during evaluation, so a misspelt one would fail every message.
//! Here it is a config error that names its place.

use std::sync::Arc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Env, ExecutionError, Program, Value};

use super::functions;

/// The variables of every expression.
const VARIABLES: [&str; 2] = ["msg", "meta"];
/// The fields of the envelope.
const META_FIELDS: [&str; 7] = [
    "id", "type", "source", "time", "topic", "attempt", "headers",
];

/// Walks an expression and looks up each name in it.
pub(super) struct Names<'a> {
    env: Arc<Env>,
    source: &'a str,
    program: &'a Program,
    /// A variable besides those of every expression.
    extra: Option<&'static str>,
    /// Variables of the enclosing comprehensions.
    bound: Vec<&'a str>,
    /// For each of [`VARIABLES`], whether the expression uses it.
    uses: [bool; 2],
}

impl<'a> Names<'a> {
    pub(super) fn new(
        env: Arc<Env>,
        source: &'a str,
        program: &'a Program,
        extra: Option<&'static str>,
    ) -> Self {
        Self {
            env,
            source,
            program,
            extra,
            bound: Vec::new(),
            uses: [false; 2],
        }
    }

    /// Looks up every name of the program. Returns whether it uses `msg` and `meta`.
    ///
    /// # Errors
    /// A name is unknown.
    pub(super) fn resolve(mut self) -> Result<[bool; 2], String> {
        self.check(self.program.expression())?;
        Ok(self.uses)
    }

    fn check(&mut self, expression: &'a IdedExpr) -> Result<(), String> {
        match &expression.expr {
            Expr::Ident(name) => self.variable(name, expression.id),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr
                    && name == "meta"
                    && !self.is_bound(name)
                    && !META_FIELDS.contains(&select.field.as_str())
                {
                    let text = format!("meta has no {:?}", select.field);
                    let known = format!("it has {}", META_FIELDS.join(", "));
                    return Err(self.error(&text, expression.id, &known));
                }
                self.check(&select.operand)
            }
            Expr::Call(call) => self.call(call, expression.id),
            Expr::List(list) => self.check_all(&list.elements),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.check(&entry.key)?;
                    self.check(&entry.value)
                }
                EntryExpr::StructField(field) => self.check(&field.value),
            }),
            Expr::Struct(_) => Err(self.error(
                "there are no message types",
                expression.id,
                "write a map: {'name': value}",
            )),
            Expr::Comprehension(each) => {
                self.check(&each.iter_range)?;
                self.check(&each.accu_init)?;
                let depth = self.bound.len();
                self.bound.push(&each.iter_var);
                self.bound.extend(each.iter_var2.as_deref());
                self.bound.push(&each.accu_var);
                self.check(&each.loop_cond)?;
                self.check(&each.loop_step)?;
                self.check(&each.result)?;
                self.bound.truncate(depth);
                Ok(())
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn check_all(&mut self, expressions: &'a [IdedExpr]) -> Result<(), String> {
        expressions.iter().try_for_each(|each| self.check(each))
    }

    fn is_bound(&self, name: &str) -> bool {
        self.bound.contains(&name)
    }

    fn variable(&mut self, name: &str, id: u64) -> Result<(), String> {
        if self.is_bound(name) || name.starts_with('@') || self.extra == Some(name) {
            return Ok(());
        }
        if let Some(number) = VARIABLES.iter().position(|known| *known == name) {
            self.uses[number] = true;
            return Ok(());
        }
        // The name of a type is a value, too: `type(msg.n) == int`.
        if self.env.types().find_type(name).is_some() {
            return Ok(());
        }
        let hint = match name {
            "and" => "write && for and",
            "or" => "write || for or",
            "not" => "write ! for not",
            "True" | "False" => "write true and false",
            _ => "the payload is msg, the envelope is meta; quote a text",
        };
        Err(self.error(&format!("there is no {name:?}"), id, hint))
    }

    fn call(&mut self, call: &'a CallExpr, id: u64) -> Result<(), String> {
        self.check_all(&call.args)?;
        if call.func_name == "matches"
            && let Some(pattern) = call.args.last()
        {
            let wrong = |text: String| self.error(&text, pattern.id, "see the syntax of RE2");
            functions::check_pattern(pattern).map_err(wrong)?;
        }
        let Some(target) = &call.target else {
            return self.function(call, None, id);
        };
        // `strings.quote(x)` calls a function with a dotted name, not a method.
        if let Expr::Ident(name) = &target.expr
            && !self.is_bound(name)
            && !VARIABLES.contains(&name.as_str())
            && self.extra != Some(name)
            && self.env.types().find_type(name).is_none()
            && self.exists(call, Some(target.clone()))
        {
            return Ok(());
        }
        self.check(target)?;
        self.function(call, Some(Box::new(null())), id)
    }

    fn function(
        &self,
        call: &CallExpr,
        target: Option<Box<IdedExpr>>,
        id: u64,
    ) -> Result<(), String> {
        if self.exists(call, target) {
            return Ok(());
        }
        let text = format!("there is no function {:?}", call.func_name);
        Err(self.error(&text, id, "see the list of functions of CEL"))
    }

    /// Asks the interpreter for a function by calling it with null arguments: an unknown name
    /// is undeclared, a known one fails in another way.
    fn exists(&self, call: &CallExpr, target: Option<Box<IdedExpr>>) -> bool {
        let is_operator = !call.func_name.starts_with(|c: char| c.is_alphabetic());
        if is_operator {
            return true;
        }
        let probe = IdedExpr {
            id: 0,
            expr: Expr::Call(CallExpr {
                func_name: call.func_name.clone(),
                target,
                args: call.args.iter().map(|_| null()).collect(),
            }),
        };
        let context = cel::Context::with_env(self.env.clone());
        !matches!(
            Value::resolve(&probe, &context),
            Err(ExecutionError::UndeclaredReference(_))
        )
    }

    fn error(&self, text: &str, id: u64, hint: &str) -> String {
        let column = self
            .program
            .source_info()
            .offset_for(id)
            .and_then(|(start, _)| self.source.get(..start as usize))
            .map(|before| before.chars().count() + 1);
        match column {
            Some(column) => format!("{text} at column {column} of the expression: {hint}"),
            None => format!("{text} in the expression: {hint}"),
        }
    }
}

fn null() -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Literal(LiteralValue::Null),
    }
}
