//! Names of headers have no case: `meta.headers['X-Shop']` finds `x-shop`.
//!
//! The envelope has names in lower case, and so gets every name that an expression looks up.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelString;

use super::functions::LOWER;
use super::response::VARIABLE;
use super::rewrite::{any, wrap};

/// Makes the names that an expression looks up in `meta.headers` and `response.headers` lower case.
pub(super) fn ignore_case(expression: &mut IdedExpr) {
    // A variable of a loop may have the name of the envelope.
    let hides_meta = any(
        expression,
        &|part| matches!(part, Expr::Comprehension(each) if each.iter_var == "meta" || each.iter_var == VARIABLE),
    );
    if !hides_meta {
        lower(expression);
    }
}

fn lower(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Select(select) => {
            if is_headers(&select.operand) {
                select.field.make_ascii_lowercase();
            }
            lower(&mut select.operand);
        }
        Expr::Call(call) => {
            lower_key(call);
            call.args.iter_mut().for_each(lower);
            call.target.as_deref_mut().map(lower);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(lower),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    lower(&mut entry.key);
                    lower(&mut entry.value);
                }
            }
        }
        Expr::Comprehension(each) => {
            lower(&mut each.iter_range);
            lower(&mut each.accu_init);
            lower(&mut each.loop_cond);
            lower(&mut each.loop_step);
            lower(&mut each.result);
        }
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

/// Makes the key of `meta.headers[key]` or `key in meta.headers` lower case.
fn lower_key(call: &mut CallExpr) {
    let key = match (call.func_name.as_str(), call.args.as_mut_slice()) {
        (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [of, key])
            if is_headers(of) =>
        {
            key
        }
        (operators::IN, [key, of]) if is_headers(of) => key,
        _ => return,
    };
    match &mut key.expr {
        Expr::Literal(LiteralValue::String(name)) => {
            *name = CelString::from(name.inner().to_ascii_lowercase());
        }
        Expr::Literal(_) => {}
        _ => wrap(LOWER, key),
    }
}

fn is_headers(expression: &IdedExpr) -> bool {
    let is_meta =
        |of: &IdedExpr| matches!(&of.expr, Expr::Ident(name) if name == "meta" || name == VARIABLE);
    match &expression.expr {
        Expr::Select(select) => {
            !select.test && select.field == "headers" && is_meta(&select.operand)
        }
        Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [
                of,
                IdedExpr {
                    expr: Expr::Literal(LiteralValue::String(name)),
                    ..
                },
            ] => is_meta(of) && name.inner() == "headers",
            _ => false,
        },
        _ => false,
    }
}
