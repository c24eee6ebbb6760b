//! Replaces operators and functions of the `cel` crate by ours in a compiled expression, and
//! puts calls into it that spend the [`budget`](super::budget) of its evaluation.
//!
//! - A loop pays before each round for its item, which the interpreter copies, and for its
//!   body: `@round(item, SIZE) ? body : null`. The condition of a loop that catches errors
//!   fails when the budget is spent.
//! - A value that is put into a list, a map or an optional is paid for before it is copied.
//! - A function pays for reading its arguments, and for a text that it makes.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as ast,
};

use super::functions::{
    ARGUMENT, COPY, DIGITS, FORMAT, GOES_ON, KEY, LITERAL_MATCHES, MADE, ROUND, UTC, own_function,
};
use super::operators::own_operator;

/// Operators that the interpreter evaluates itself.
const KEPT: [&str; 8] = [
    ast::CONDITIONAL,
    ast::LOGICAL_AND,
    ast::LOGICAL_OR,
    ast::LOGICAL_NOT,
    ast::INDEX,
    ast::OPT_INDEX,
    ast::OPT_SELECT,
    ast::NOT_STRICTLY_FALSE,
];

/// Functions of the crate that make a text.
const MAKERS: [&str; 10] = [
    "bytes",
    "charAt",
    "format",
    "lowerAscii",
    "quote",
    "reverse",
    "string",
    "substring",
    "trim",
    "upperAscii",
];

/// Steps of a round of a loop beside those of its body.
const ROUND_STEPS: usize = 4;

/// Rewrites an expression and all its parts.
pub(super) fn rewrite(expression: &mut IdedExpr) {
    let has_optionals = any(expression, &|part| match part {
        Expr::Call(call) => {
            matches!(call.func_name.as_str(), ast::OPT_INDEX | ast::OPT_SELECT)
                || matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. })
                    if name == "optional")
        }
        _ => false,
    });
    Rewriter { has_optionals }.rewrite(expression);
}

struct Rewriter {
    /// Whether fields may be fields of optionals: the interpreter copies these.
    has_optionals: bool,
}

impl Rewriter {
    fn rewrite(&self, expression: &mut IdedExpr) {
        match &mut expression.expr {
            Expr::Select(select) => {
                self.rewrite(&mut select.operand);
                self.pay_for_optional(expression);
            }
            Expr::Call(call) => match KEPT.contains(&call.func_name.as_str()) {
                true => {
                    self.rewrite_all(&mut call.args);
                    if matches!(call.func_name.as_str(), ast::INDEX | ast::OPT_INDEX) {
                        wrap(KEY, &mut call.args[1]);
                    }
                    self.pay_for_optional(expression);
                }
                false => self.rewrite_call(expression),
            },
            Expr::List(list) => list.elements.iter_mut().for_each(|item| self.copied(item)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.copied(&mut entry.key);
                        self.copied(&mut entry.value);
                    }
                }
            }
            Expr::Comprehension(each) => self.rewrite_comprehension(each),
            Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn rewrite_all(&self, expressions: &mut [IdedExpr]) {
        expressions.iter_mut().for_each(|each| self.rewrite(each));
    }

    /// Rewrites an expression whose value is copied.
    fn copied(&self, expression: &mut IdedExpr) {
        self.rewrite(expression);
        if !matches!(expression.expr, Expr::Literal(_)) {
            wrap(COPY, expression);
        }
    }

    fn pay_for_optional(&self, expression: &mut IdedExpr) {
        if self.has_optionals {
            wrap(MADE, expression);
        }
    }

    /// Rewrites a call of a function, or of an operator that is one of ours.
    fn rewrite_call(&self, expression: &mut IdedExpr) {
        let Expr::Call(call) = &mut expression.expr else {
            return;
        };
        self.rewrite_all(&mut call.args);
        if let Some(own) = own_operator(&call.func_name, call.args.len()) {
            own.clone_into(&mut call.func_name);
            return;
        }
        // The first part of a function's name, such as `strings.quote`, is no value.
        let is_name = matches!(call.target.as_deref(),
            Some(IdedExpr { expr: Expr::Ident(name), .. }) if matches!(name.as_str(), "strings" | "optional"));
        if let Some(target) = call.target.as_deref_mut().filter(|_| !is_name) {
            self.rewrite(target);
            wrap(ARGUMENT, target);
            if call.func_name == "format" {
                wrap(FORMAT, target);
            }
        }
        let prepare = match call.func_name.as_str() {
            "format" | "of" | "ofNonZeroValue" => COPY,
            "string" => DIGITS,
            _ => ARGUMENT,
        };
        call.args.iter_mut().for_each(|arg| wrap(prepare, arg));
        let function = call.func_name.clone();
        if let Some(own) = own_function(&function)
            && (call.target.is_some() || function == "matches")
        {
            call.args
                .splice(0..0, call.target.take().map(|target| *target));
            let has_literal = matches!(
                call.args.last(),
                Some(IdedExpr {
                    expr: Expr::Literal(_),
                    ..
                })
            );
            call.func_name = match function == "matches" && has_literal {
                true => LITERAL_MATCHES.to_owned(),
                false => own.to_owned(),
            };
        }
        if function == "timestamp" {
            wrap(UTC, expression);
        }
        if self.has_optionals || MAKERS.contains(&function.as_str()) {
            wrap(MADE, expression);
        }
    }

    fn rewrite_comprehension(&self, each: &mut ComprehensionExpr) {
        let steps = size(&each.loop_step) + ROUND_STEPS;
        let round = Round {
            item: each.iter_var.clone(),
            result: each.accu_var.clone(),
            steps,
        };
        self.rewrite(&mut each.iter_range);
        self.rewrite(&mut each.accu_init);
        if !is_plain(&each.accu_init) {
            wrap(COPY, &mut each.accu_init);
        }
        self.rewrite(&mut each.loop_cond);
        if !matches!(each.loop_cond.expr, Expr::Literal(_)) {
            wrap(GOES_ON, &mut each.loop_cond);
        }
        self.rewrite(&mut each.result);
        if self.has_optionals && !is_plain(&each.result) {
            wrap(COPY, &mut each.result);
        }
        self.rewrite_step(&mut each.loop_step, &round);
    }

    /// Rewrites the step of a loop. The interpreter knows `@result + [x]`, `@result && x` and
    /// `@result || x` by their form, so only the operands change.
    fn rewrite_step(&self, step: &mut IdedExpr, round: &Round) {
        if let Expr::Call(call) = &mut step.expr {
            match (call.func_name.as_str(), call.args.as_mut_slice()) {
                (
                    ast::ADD,
                    [
                        result,
                        IdedExpr {
                            expr: Expr::List(list),
                            ..
                        },
                    ],
                ) if round.is_result(result) => {
                    for item in &mut list.elements {
                        self.rewrite(item);
                        round.pay(item);
                        wrap(COPY, item);
                    }
                    return;
                }
                (ast::LOGICAL_AND | ast::LOGICAL_OR, [result, body]) if round.is_result(result) => {
                    self.rewrite(body);
                    round.pay(body);
                    return;
                }
                (ast::CONDITIONAL, [condition, then, otherwise]) if round.is_result(otherwise) => {
                    self.rewrite(condition);
                    round.pay(condition);
                    self.rewrite_step(then, round);
                    return;
                }
                _ => {}
            }
        }
        self.rewrite(step);
        round.pay(step);
    }
}

/// A round of a loop.
struct Round {
    /// The variable of the item.
    item: String,
    /// The variable of the result so far.
    result: String,
    steps: usize,
}

impl Round {
    fn is_result(&self, expression: &IdedExpr) -> bool {
        matches!(&expression.expr, Expr::Ident(name) if *name == self.result)
    }

    /// Makes a body pay before it is evaluated.
    fn pay(&self, body: &mut IdedExpr) {
        let id = body.id;
        let part = |expr| IdedExpr { id, expr };
        let steps = i64::try_from(self.steps).unwrap_or(i64::MAX);
        let item = part(Expr::Ident(self.item.clone()));
        let steps = part(Expr::Literal(LiteralValue::Int(steps.into())));
        let paid = part(call(ROUND, vec![item, steps]));
        let never = part(Expr::Literal(LiteralValue::Null));
        let branches = vec![paid, std::mem::take(body), never];
        *body = part(call(ast::CONDITIONAL, branches));
    }
}

/// Whether a value costs nothing to copy, or is known to the interpreter by its form.
fn is_plain(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(_) | Expr::Ident(_) => true,
        Expr::List(list) => list.elements.is_empty(),
        _ => false,
    }
}

fn call(function: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr {
        func_name: function.to_owned(),
        target: None,
        args,
    })
}

/// Wraps an expression in a call of a function with one argument.
pub(super) fn wrap(function: &str, expression: &mut IdedExpr) {
    let needs_nothing = match &expression.expr {
        Expr::Literal(LiteralValue::Double(_)) => !matches!(function, COPY | KEY),
        Expr::Literal(_) => function != COPY,
        _ => false,
    };
    if needs_nothing {
        return;
    }
    let id = expression.id;
    let argument = std::mem::take(expression);
    *expression = IdedExpr {
        id,
        expr: call(function, vec![argument]),
    };
}

/// The number of parts of an expression.
fn size(expression: &IdedExpr) -> usize {
    let mut size = 0;
    visit(expression, &mut |_| size += 1);
    size
}

/// Whether a part of an expression is such a one.
pub(super) fn any(expression: &IdedExpr, holds: &dyn Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    visit(expression, &mut |part| found |= holds(part));
    found
}

/// Visits an expression and all its parts.
fn visit(expression: &IdedExpr, see: &mut dyn FnMut(&Expr)) {
    see(&expression.expr);
    parts(expression, &mut |part| visit(part, see));
}

/// Calls a function for each direct part of an expression.
pub(super) fn parts<'e>(expression: &'e IdedExpr, see: &mut dyn FnMut(&'e IdedExpr)) {
    match &expression.expr {
        Expr::Select(select) => see(&select.operand),
        Expr::Call(call) => {
            call.args.iter().for_each(&mut *see);
            if let Some(target) = &call.target {
                see(target);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(see),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    see(&entry.key);
                    see(&entry.value);
                }
            }
        }
        Expr::Comprehension(each) => {
            for part in [
                &each.iter_range,
                &each.accu_init,
                &each.loop_cond,
                &each.loop_step,
                &each.result,
            ] {
                see(part);
            }
        }
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}
